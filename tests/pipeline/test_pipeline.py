from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from acestep import ACEStepPipeline, GenerationResult
from acestep.errors import AdapterError, InputError
from acestep.families.checkpoint import fingerprint
from acestep.pipeline import read_recipe
from reference_data import reference_path
from small_checkpoint import make_checkpoint

QUICK: dict[str, Any] = {"duration": 5, "steps": 3, "erg": ()}
PROMPT, LYRICS = "upbeat synth pop", "[verse]\nhello bright morning light"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> ACEStepPipeline:
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return ACEStepPipeline.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def song(pipe: ACEStepPipeline) -> GenerationResult:
    return pipe(PROMPT, LYRICS, seed=7, **QUICK)


def test_a_song_is_stereo_float32_of_the_length_asked_for(song: GenerationResult) -> None:
    assert song.audio.dtype == torch.float32
    assert song.audio.shape[0] == 2
    assert song.sample_rate == 44100
    assert song.duration_s == pytest.approx(5, abs=0.1)
    assert song.audio.isfinite().all()


def test_a_seed_makes_the_same_song_and_another_seed_another(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    assert torch.equal(pipe(PROMPT, LYRICS, seed=7, **QUICK).audio, song.audio)
    assert not torch.equal(pipe(PROMPT, LYRICS, seed=8, **QUICK).audio, song.audio)


def test_a_drawn_seed_is_named(pipe: ACEStepPipeline) -> None:
    drawn = pipe(PROMPT, **QUICK)
    assert torch.equal(pipe(PROMPT, seed=drawn.seed, **QUICK).audio, drawn.audio)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_song_is_made_again_from_its_files_tags(
    pipe: ACEStepPipeline, song: GenerationResult, tmp_path: Path, suffix: str
) -> None:
    recipe = read_recipe(song.save(tmp_path / f"song{suffix}"))
    assert recipe["task"] == "generate"
    assert torch.equal(pipe(**recipe["params"]).audio, song.audio)


def test_prompt_and_lyrics_are_heard(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    assert not torch.equal(pipe("slow sad ballad", LYRICS, seed=7, **QUICK).audio, song.audio)
    assert not torch.equal(pipe(PROMPT, "[verse]\ngoodnight", seed=7, **QUICK).audio, song.audio)


def test_latents_go_in_and_come_out(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    latents = pipe(PROMPT, LYRICS, seed=7, output_type="latents", **QUICK)
    assert torch.equal(latents, song.latents)
    noise = torch.randn(1, 8, 16, song.latents.shape[-1], generator=torch.Generator().manual_seed(7))
    assert torch.equal(pipe(PROMPT, LYRICS, latents=noise, seed=1, **QUICK).audio, song.audio)
    with pytest.raises(InputError, match=r"\(1, 8, 16, frames\)"):
        pipe(PROMPT, latents=noise[0], **QUICK)


def test_progress_is_reported_and_can_stop_a_song(pipe: ACEStepPipeline) -> None:
    seen: list[tuple[int, int]] = []
    pipe(PROMPT, seed=1, callback=lambda step, steps: seen.append((step, steps)), **QUICK)
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(step: int, _steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(PROMPT, seed=1, callback=stop, **QUICK)


@pytest.mark.parametrize("settings", [{"scheduler": "heun"}, {"scheduler": "pingpong"}, {"guidance": "double"}])
def test_other_samplers_and_guidance_make_songs(pipe: ACEStepPipeline, settings: dict[str, Any]) -> None:
    assert pipe(PROMPT, LYRICS, seed=1, **{**QUICK, "guidance_interval": 1.0, **settings}).audio.isfinite().all()


def test_a_retake_lies_between_two_songs(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    kept = pipe.retake(PROMPT, LYRICS, seed=7, retake_seed=9, variance=0.0, **QUICK)
    varied = pipe.retake(PROMPT, LYRICS, seed=7, retake_seed=9, variance=0.4, **QUICK)
    assert torch.equal(kept.audio, song.audio)
    assert not torch.equal(varied.audio, song.audio)


def test_repainting_keeps_the_rest(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    painted = pipe.repaint(song, PROMPT, LYRICS, start_s=1, end_s=2, seed=3, steps=3, erg=())
    inside = slice(int(1 * 44100 / 4096), int(2 * 44100 / 4096))
    changed = (painted.latents - song.latents).abs().amax(dim=(0, 1, 2)) > 1e-6
    assert changed[inside].all()
    assert not changed[: inside.start].any()
    assert not changed[inside.stop :].any()


def test_extending_keeps_what_was_there_even_by_more_than_its_length(
    pipe: ACEStepPipeline, song: GenerationResult
) -> None:
    grown = pipe.extend(song, PROMPT, left_s=1, right_s=7, seed=3, steps=3, erg=())
    left, frames = int(44100 / 4096), song.latents.shape[-1]
    torch.testing.assert_close(grown.latents[..., left : left + frames], song.latents)
    assert grown.latents.shape[-1] == left + frames + int(7 * 44100 / 4096)


def test_a_reference_is_followed_the_more_the_stronger(
    pipe: ACEStepPipeline, song: GenerationResult, tmp_path: Path
) -> None:
    path = song.save(tmp_path / "reference.flac")

    def distance(strength: float) -> float:
        made = pipe.from_reference(path, "ballad", strength=strength, seed=3, steps=6, erg=())
        return float((made.latents - song.latents).abs().mean())

    assert distance(0.8) < distance(0.2)


def test_editing_to_the_same_words_changes_less_than_to_others(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    plain: dict[str, Any] = {"seed": 3, "steps": 3, "erg": (), "guidance_scale": 1.0}
    same = pipe.edit(song, PROMPT, LYRICS, **plain)
    other = pipe.edit(song, PROMPT, LYRICS, target_prompt="slow sad ballad", **plain)
    torch.testing.assert_close(same.latents, song.latents, rtol=1e-4, atol=1e-4)
    assert (other.latents - song.latents).abs().max() > 1e-2


def test_adapters_come_change_and_go_without_a_trace(pipe: ACEStepPipeline, song: GenerationResult) -> None:
    before = fingerprint(pipe.family.network)
    name = pipe.load_lora(reference_path("tiny/lora/plain_with_metadata"), 0.5)
    half = pipe(PROMPT, LYRICS, seed=7, **QUICK)
    assert half.recipe["loras"][0]["weight"] == 0.5
    pipe.set_lora_weights({name: 0.0})
    assert torch.equal(pipe(PROMPT, LYRICS, seed=7, **QUICK).audio, song.audio)
    second = pipe.load_lora(reference_path("tiny/lora/rslora_with_metadata"))
    assert list(pipe.loras) == [name, second]
    pipe.unload_lora()
    assert not torch.equal(half.audio, song.audio)
    assert torch.equal(pipe(PROMPT, LYRICS, seed=7, **QUICK).audio, song.audio)
    assert fingerprint(pipe.family.network) == before
    assert not pipe.loras


def test_an_adapter_that_is_not_attached_is_named(pipe: ACEStepPipeline) -> None:
    with pytest.raises(InputError, match="no adapter named vocals"):
        pipe.unload_lora("vocals")


def test_an_adapter_of_another_family_is_refused_with_both_names(pipe: ACEStepPipeline, tmp_path: Path) -> None:
    from acestep.lora.adapter import Adapter, read_adapter, write_adapter
    from acestep.lora.metadata import AdapterMetadata

    factors = read_adapter(reference_path("tiny/lora/plain_with_metadata")).factors
    write_adapter(tmp_path / "foreign", Adapter(factors, AdapterMetadata(family="v1.5")))
    with pytest.raises(AdapterError, match=r"v1\.5.*v1"):
        pipe.load_lora(tmp_path / "foreign")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"duration": 4}, "5 to 240"),
        ({"duration": 1000}, "5 to 240"),
        ({"steps": 0}, "steps is 0"),
        ({"output_type": "midi"}, "audio or latents"),
        ({"prompt": "word " * 400}, "256"),
        ({"lyrics": "la " * 4000}, "4096"),
        ({"erg": ["diffusion"]}, "needs 16 more layers"),
    ],
)
def test_bad_input_is_named_with_its_limit(pipe: ACEStepPipeline, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(**{"prompt": PROMPT, **QUICK, **call})


@pytest.mark.parametrize(("start_s", "end_s"), [(3, 2), (-1, 2), (0, 60)])
def test_a_stretch_outside_the_song_is_refused(
    pipe: ACEStepPipeline, song: GenerationResult, start_s: float, end_s: float
) -> None:
    with pytest.raises(InputError, match="rising pair"):
        pipe.repaint(song, PROMPT, start_s=start_s, end_s=end_s, steps=2, erg=())
