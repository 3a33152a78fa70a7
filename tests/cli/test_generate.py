from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from acestep.audio.files import read_audio
from acestep.lora import write_adapter
from acestep.pipeline import ACEStepPipeline, read_recipe
from cli.command import acestep
from small_adapter import nano_adapter


def test_a_song_is_made_told_of_and_made_again(model: Path, tmp_path: Path) -> None:
    common = ("generate", "--model", model, "--prompt", "lofi", "--lyrics", "[verse]\nla", "--duration", 5, "--json")
    first = acestep(*common, "--seed", 7, "--out", "a.wav")
    assert first.status == 0, first.stderr
    told = first.json
    assert told["path"] == "a.wav"
    assert told["seed"] == 7
    assert told["duration_s"] == pytest.approx(5, abs=0.1)
    params = read_recipe(tmp_path / "a.wav")["params"]
    assert params["lyrics"] == "[verse]\nla"
    again = ACEStepPipeline.from_pretrained(model)(**params)
    audio = read_audio(tmp_path / "a.wav")
    assert np.abs(audio - again.audio.numpy()).max() < 1e-4


def test_loras_change_along_a_song_of_a_quantised_base_and_it_is_made_again(tmp_path: Path) -> None:
    write_adapter(tmp_path / "choir", nano_adapter())
    told = acestep(
        "generate", "--prompt", "lofi", "--duration", 5, "--steps", 2, "--seed", 7, "--out", "a.wav", "--json",
        "--lora", "./choir:0.01,0.03@2-4s,x0.5@1-0.9noise", "--raw-scale", "--quantize", "int8",
    )  # fmt: skip
    assert told.status == 0, told.stderr
    recipe = read_recipe(tmp_path / "a.wav")
    strength = {"weight": 0.01, "sections": [[2.0, 4.0, 0.03]], "noise_ranges": [[1.0, 0.9, 0.5]]}
    assert told.json["loras"] == recipe["loras"] == [{"path": "./choir", **strength, "raw_scale": True}]
    pipe = ACEStepPipeline.from_pretrained(recipe["model"], recipe["loras"], quantization=recipe["quantization"])
    song = pipe(**recipe["params"])
    assert np.abs(read_audio(tmp_path / "a.wav") - song.audio.numpy()).max() < 1e-4
    pipe.unload_lora()
    assert not torch.equal(pipe(**recipe["params"]).audio, song.audio)


def test_an_output_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    song.write_bytes(b"precious")
    outcome = acestep("generate", "--prompt", "lofi", "--out", song)
    assert outcome.status == 1
    assert "--force" in outcome.stderr
    assert song.read_bytes() == b"precious"


def test_ctrl_c_leaves_no_song_and_no_half_of_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ACEStepPipeline, "__call__", interrupted)
    outcome = acestep("generate", "--model", model, "--prompt", "lofi", "--out", tmp_path / "song.wav")
    assert outcome.status == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--out", "song.aiff"], 1, "expected .wav, .flac, .ogg, .mp3"),
        (["--out", "."], 1, "does not end in a known audio format"),
        (["--duration", "2"], 1, "give 5 to 240 s"),
        (["--duration", "nan"], 1, "give 5 to 240 s"),
        (["--steps", "0"], 1, "give 1 to 1000"),
        (["--scheduler", "ddim", "--guidance", "none"], 1, "guidance is 'none'"),
        (["--erg", "tag,loud"], 1, "known are tag, lyric, diffusion"),
        (["--seed", "-1"], 1, "seed is -1"),
        (["--lora", "nowhere"], 1, "no adapter at nowhere"),
        (["--lora", "mine:"], 2, "is not a number"),
        (["--lora", "choir:1@32-48"], 2, "as in 1@32-48s"),
        (["--lora", "LoFiVibes:0.5"], 1, "LoFiVibes is planned"),
        (["--lora", "Lyric2Vocal"], 1, "hf download ACE-Step/ACE-Step-v1-Lyric2Vocal-LoRA"),
        (["--quantize", "int3"], 2, "'int8', 'nf4'"),
        (["--lyrics", "a", "--lyrics-file", "b"], 2, "not both"),
        (["--lyrics-file", "none.txt"], 2, "none.txt cannot be read"),
        (["--prompt", "lofi, mellow " * 2000], 1, "at most"),
    ],
)
def test_bad_input_is_named_before_any_song_is_made(
    model: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    outcome = acestep("generate", "--model", model, "--prompt", "lofi", *arguments)
    assert outcome.status == status, outcome.stderr
    assert said in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = acestep("generate", "--model", tmp_path / "none", "--prompt", "lofi", "--json")
    assert outcome.status == 1
    assert "none" in outcome.json["error"]["message"]
