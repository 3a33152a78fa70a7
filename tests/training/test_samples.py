"""Samples on the tiny checkpoint of the released layout, whose songs are noise but take the whole way."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acestep import ACEStepPipeline, GenerationResult
from acestep.audio.files import read_audio
from acestep.errors import AudioError, InputError
from acestep.families.base import Family
from acestep.families.checkpoint import fingerprint
from acestep.families.loading import load_family
from acestep.lora import write_adapter
from acestep.lora.attach import TrainableAdapter, attach_trainable, attached_names, module_shapes
from acestep.pipeline import read_recipe
from acestep.training import samples as module
from acestep.training.results import SamplesResult
from acestep.training.samples import SampleMaker, embed_song, likeness_of, slug
from small_checkpoint import make_checkpoint

PROMPTS = ("upbeat synth pop", "a slow, sad ballad: voice & piano")
QUICK: dict[str, Any] = {"steps": 2, "erg": ()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def whole_family(checkpoint: Path) -> Family:
    return load_family(checkpoint, device="cpu")


@pytest.fixture
def family(whole_family: Family, monkeypatch: pytest.MonkeyPatch) -> Family:
    """Its codec, which is most of a tiny song's cost, replaced by arithmetic."""
    monkeypatch.setattr(whole_family, "decode_latents", cheap_decoding)
    return whole_family


def cheap_decoding(latents: torch.Tensor) -> torch.Tensor:
    carrier = torch.sin(torch.arange(4096 * latents.shape[-1]) * 0.06)
    return 0.1 * latents[:, :2, 3].repeat_interleave(4096, dim=-1) * carrier


@pytest.fixture
def adapter(family: Family) -> Iterator[TrainableAdapter]:
    trained = put_on(family)
    yield trained
    trained.detach()


def put_on(family: Family, **options: Any) -> TrainableAdapter:
    """An adapter that has learned something, its dropout at work as in the middle of a run."""
    targets = [name for name in module_shapes(family.network) if name.endswith(("to_q", "to_v", "linear_q"))]
    generator = torch.Generator().manual_seed(1)
    # A scale that is no power of two, so that baking it into B rounds.
    trained = attach_trainable(family.network, targets, rank=3, alpha=4.0, dropout=0.5, generator=generator, **options)
    with torch.no_grad():
        for name, parameter in trained.parameters().items():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    trained.drop_out(True)
    return trained


def make_maker(family: Family, folder: Path, **options: Any) -> SampleMaker:
    given = {"prompts": PROMPTS, "seeds": (0,), "duration_s": 5.0, "folder": folder / "samples", **QUICK, **options}
    return SampleMaker(family, **given)


def sound(path: Path) -> np.ndarray[Any, Any]:
    return read_audio(path, sample_rate=44100)


@pytest.mark.parametrize("ranks", [{}, {"ranks": 2}])
def test_a_sample_is_the_song_that_a_pipeline_makes_from_the_saved_adapter(
    whole_family: Family, checkpoint: Path, tmp_path: Path, ranks: dict[str, int]
):
    family = whole_family
    names = [name for name in module_shapes(family.network) if name.endswith("to_v")]
    trained = put_on(family, **({"ranks": dict.fromkeys(names, 2)} if ranks else {}))
    try:
        result = make_maker(family, tmp_path, prompts=PROMPTS[:1]).make(3, 30, trained)
        write_adapter(tmp_path / "adapter", trained.adapter())
    finally:
        trained.detach()
    pipe = ACEStepPipeline.from_pretrained(checkpoint, tmp_path / "adapter", device="cpu")
    for sample in result.samples:
        recipe = read_recipe(sample.path)
        song = pipe(**recipe["params"])
        again = song.save(tmp_path / "again.flac")
        assert np.array_equal(sound(sample.path), sound(again))
        assert recipe["epoch"] == 3
        assert recipe["loras"][0]["weight"] == 1.0
        pipe.set_lora_weights(dict.fromkeys(pipe.loras, 0.0))
        assert np.array_equal(sound(sample.base_path), sound(pipe(**recipe["params"]).save(tmp_path / "base.flac")))
        assert not np.array_equal(sound(sample.path), sound(sample.base_path))
        assert read_recipe(sample.base_path)["loras"] == []
        pipe.set_lora_weights(dict.fromkeys(pipe.loras, 1.0))


def test_the_files_lie_where_the_run_folder_has_them(family: Family, adapter: TrainableAdapter, tmp_path: Path):
    result = make_maker(family, tmp_path, seeds=(0, 7)).make(10, 80, adapter)
    names = [
        "01-upbeat-synth-pop-seed0.flac",
        "01-upbeat-synth-pop-seed7.flac",
        "02-a-slow-sad-ballad-voice-piano-seed0.flac",
        "02-a-slow-sad-ballad-voice-piano-seed7.flac",
    ]
    for folder in ("epoch-0010", "base"):
        assert sorted(path.name for path in (tmp_path / "samples" / folder).iterdir()) == names
    assert [sample.path for sample in result.samples] == [result.folder / name for name in names]
    assert (result.epoch, result.step, result.folder.name) == (10, 80, "epoch-0010")
    assert result.likeness is not None


def test_the_run_is_left_as_it_was(family: Family, adapter: TrainableAdapter, tmp_path: Path):
    maker = make_maker(family, tmp_path)
    maker.make(1, 1, adapter)
    torch.manual_seed(5)
    random, base = torch.get_rng_state(), fingerprint(family.network)
    parameters = {name: value.detach().clone() for name, value in adapter.parameters().items()}
    identities = {name: id(value) for name, value in adapter.parameters().items()}
    gc.collect()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    result = maker.make(2, 2, adapter)
    del result
    gc.collect()
    assert sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()) <= tensors
    assert torch.equal(torch.get_rng_state(), random)
    assert fingerprint(family.network) == base
    assert attached_names(family.network) == ["trained"]
    assert {name: id(value) for name, value in adapter.parameters().items()} == identities
    assert all(torch.equal(value, parameters[name]) for name, value in adapter.parameters().items())
    assert all(value.requires_grad for value in adapter.parameters().values())
    assert torch.is_grad_enabled()


def test_training_goes_on_as_if_no_sample_had_been_made(family: Family, adapter: TrainableAdapter, tmp_path: Path):
    conditioning = family.encode_prompt([PROMPTS[0]], [""])
    latents = torch.randn(1, 8, 16, 12, generator=torch.Generator().manual_seed(2))

    def gradient() -> dict[str, torch.Tensor]:
        torch.manual_seed(11)
        for parameter in adapter.parameters().values():
            parameter.grad = None
        family.velocity(latents, torch.tensor([0.5]), conditioning).square().mean().backward()
        return {name: value.grad.clone() for name, value in adapter.parameters().items() if value.grad is not None}

    before = gradient()
    make_maker(family, tmp_path).make(1, 1, adapter)
    after = gradient()
    assert before.keys() == after.keys()
    assert len(before) > 0
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_bases_songs_are_made_once_and_again_only_for_other_settings(
    family: Family, adapter: TrainableAdapter, tmp_path: Path
):
    first = make_maker(family, tmp_path).make(1, 1, adapter)
    times = {sample.base_path: sample.base_path.stat().st_mtime_ns for sample in first.samples}
    resumed = make_maker(family, tmp_path).make(2, 2, adapter)
    assert {sample.base_path: sample.base_path.stat().st_mtime_ns for sample in resumed.samples} == times
    assert resumed.likeness == first.likeness
    first.samples[0].base_path.write_bytes(b"fLaC and then the power went")
    make_maker(family, tmp_path).make(3, 3, adapter)
    assert read_recipe(first.samples[0].base_path)["params"]["prompt"] == PROMPTS[0]
    make_maker(family, tmp_path, steps=3).make(4, 4, adapter)
    made = [read_recipe(sample.base_path)["params"]["steps"] for sample in first.samples]
    assert made == [3, 3]


def notes() -> tuple[list[tuple[str, dict[str, Any]]], module.Note]:
    told: list[tuple[str, dict[str, Any]]] = []
    return told, lambda event, **details: told.append((event, details))


def test_silent_songs_and_songs_that_are_no_number_are_told_and_the_run_goes_on(
    family: Family, adapter: TrainableAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told, note = notes()
    maker = make_maker(family, tmp_path)
    maker.make(1, 1, adapter)
    decode = family.decode_latents
    answers = iter([lambda audio: audio * 0, lambda audio: audio * math.nan])
    monkeypatch.setattr(family, "decode_latents", lambda latents: next(answers)(decode(latents)))
    result = maker.make(2, 2, adapter, note=note)
    assert [event for event, _ in told] == ["silent_sample", "broken_sample"]
    assert told[1][1]["prompt"] == PROMPTS[1]
    assert [sample.prompt for sample in result.samples] == [PROMPTS[0]]
    assert result.likeness is None


@pytest.mark.parametrize("error", [AudioError("no space left"), OSError(28, "No space left"), torch.OutOfMemoryError()])
def test_a_round_that_fails_leaves_no_half_folder_and_the_run_goes_on(
    family: Family, adapter: TrainableAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    told, note = notes()
    maker = make_maker(family, tmp_path)
    maker.make(1, 1, adapter)

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(GenerationResult, "save", fail)
    result = maker.make(2, 2, adapter, note=note)
    assert result.samples == ()
    assert [event for event, _ in told] == ["samples_failed"]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["base", "epoch-0001"]
    assert attached_names(family.network) == ["trained"]


def test_an_interrupt_in_the_middle_leaves_the_network_as_it_was(
    family: Family, adapter: TrainableAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(latents: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(family, "decode_latents", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_maker(family, tmp_path).make(1, 1, adapter)
    assert attached_names(family.network) == ["trained"]
    conditioning = family.encode_prompt([PROMPTS[0]], [""])
    adapter.drop_out(False)
    latents = torch.randn(1, 8, 16, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        adapted = family.velocity(latents, torch.tensor([0.5]), conditioning)
        for parameter in adapter.parameters().values():
            parameter.zero_()
        assert not torch.equal(family.velocity(latents, torch.tensor([0.5]), conditioning), adapted)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": ()}, "at least one prompt"),
        ({"lyrics": ["one", "two", "three"]}, "3 lyrics"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"duration_s": 1.0}, "duration is 1"),
        ({"prompts": ("word " * 2000,)}, "."),
        ({"steps": 0}, "steps is 0"),
        ({"stpes": 3}, "stpes"),
    ],
)
def test_what_cannot_be_sampled_is_said_before_training(
    family: Family, tmp_path: Path, wrong: dict[str, Any], message: str
):
    with pytest.raises(InputError, match=message):
        make_maker(family, tmp_path, **wrong)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Lo-Fi / chill", "lo-fi-chill"),
        ("../..", "prompt"),
        ("夜の歌", "夜の歌"),
        ("🎵🎵", "prompt"),
        ("é" * 200, "é" * 30),
    ],
)
def test_prompts_become_names_that_every_file_system_takes(prompt: str, name: str):
    assert slug(prompt) == name
    assert len(slug(prompt).encode()) <= 60


def tone(frequency: float, level: float = 0.3) -> np.ndarray[Any, np.dtype[np.float32]]:
    time = np.arange(3 * 44100) / 44100
    wave = sum(np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, 6)) * (1 + np.sin(2 * np.pi * 3 * time))
    return (level * np.stack([wave, wave]) / 4).astype(np.float32)


def test_likeness_is_nothing_for_the_bases_own_songs_and_one_where_all_are_alike():
    base = [(str(f), embed_song(tone(f), 44100)) for f in (110.0, 440.0, 1500.0)]
    assert likeness_of(base, base) == pytest.approx(0)
    assert likeness_of([(prompt, base[0][1]) for prompt, _ in base], base) == pytest.approx(1)
    halfway = [(prompt, 0.5 * (vector + base[0][1])) for prompt, vector in base]
    assert likeness_of(halfway, base) == pytest.approx(0.75)
    assert likeness_of(base[:1], base[:1]) is None
    assert likeness_of(base, [(prompt, base[0][1]) for prompt, _ in base]) is None


def test_likeness_is_deaf_to_loudness_and_to_a_colour_that_all_songs_get():
    base = [(str(f), embed_song(tone(f), 44100)) for f in (110.0, 440.0)]
    quiet = [(str(f), embed_song(tone(f, 0.03), 44100)) for f in (110.0, 440.0)]
    assert likeness_of(quiet, base) == pytest.approx(0, abs=1e-3)
    colour = np.random.default_rng(0).normal(size=base[0][1].shape)
    assert likeness_of([(prompt, vector + 10 * colour) for prompt, vector in base], base) == pytest.approx(0)


def test_a_silent_song_has_an_embedding():
    assert np.isfinite(embed_song(np.zeros((2, 44100), dtype=np.float32), 44100)).all()


def test_a_round_without_trouble_gives_a_result_that_can_be_recorded(
    family: Family, adapter: TrainableAdapter, tmp_path: Path
):
    result = make_maker(family, tmp_path, prompts=PROMPTS[:1]).make(1, 1, adapter)
    assert isinstance(result, SamplesResult)
    assert result.likeness is None
