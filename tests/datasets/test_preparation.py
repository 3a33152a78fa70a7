import threading
from pathlib import Path

import pytest
import torch

from acestep.datasets import LatentDataset, prepare_dataset
from acestep.errors import DatasetError
from small_family import SmallFamily, write_dataset, write_tone


def prepare(root: Path, family: SmallFamily | None = None, **options: object) -> LatentDataset:
    return prepare_dataset(root, family or SmallFamily(), max_duration_s=2.0, **options)  # type: ignore[arg-type]


def test_audio_is_encoded_once_and_again_only_when_it_changes(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)
    first, second, third = SmallFamily(), SmallFamily(), SmallFamily()
    dataset = prepare(root, first)
    assert first.encoded_s == pytest.approx(3 * 3.0, abs=0.1)
    assert prepare(root, second) == dataset
    assert second.encoded_s == 0
    write_tone(root / "audio" / "track_001.wav", 3.0, frequency=999)
    prepare(root, third)
    assert third.encoded_s == pytest.approx(3.0, abs=0.1)


def test_another_encoder_makes_other_entries(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=1)
    dataset = prepare(root)
    other = SmallFamily()
    other.basis = other.basis * 1.1
    assert prepare(root, other).tracks[0].latents != dataset.tracks[0].latents
    assert prepare(root, other).tracks[0].conditioning == dataset.tracks[0].conditioning


def test_what_is_cached_is_what_the_family_computes(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=1, duration_s=1.5)
    example = prepare(root)[0]
    conditioning = SmallFamily().encode_prompt(["tone number 0, drone, calm"], [""])
    assert example.latents.shape == (8, 16, 16)
    for name, tensor in conditioning.tensors().items():
        assert torch.equal(example.conditioning.tensors()[name], tensor)


def test_a_track_that_breaks_in_the_middle_is_named_after_all_others_were_tried(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)
    (root / "annotations").mkdir()
    (root / "annotations" / "track_000.json").write_text('{"prompt": "%s"}' % ("word " * 80))
    write_silence(root / "audio" / "track_001.wav")
    with pytest.raises(DatasetError) as error:
        prepare(root)
    assert "2 of 3 tracks" in str(error.value)
    assert "track_000.wav: the prompt has" in str(error.value)
    assert "track_001.wav: 100% of it is silence" in str(error.value)
    dataset = prepare(root, skip_bad=True)
    assert [track.name for track in dataset.tracks] == ["track_002.wav"]
    assert any("track_001.wav is left out" in warning for warning in dataset.warnings)


def write_silence(path: Path) -> None:
    import soundfile

    soundfile.write(str(path), torch.zeros(44100, 2).numpy(), 44100)


def test_progress_counts_every_track_and_ends_at_zero(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)
    seen = []
    prepare(root, on_progress=seen.append)
    assert [(progress.tracks_done, progress.tracks) for progress in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0].remaining_s is not None
    assert seen[0].remaining_s > 0
    assert seen[-1].remaining_s == 0


def test_two_runs_fill_one_cache_at_once(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=6, duration_s=1.0)
    results: list[LatentDataset] = []
    # Made one after the other: their weights come from the global generator, which threads share.
    families = [SmallFamily(), SmallFamily()]
    threads = [threading.Thread(target=lambda own=own: results.append(prepare(root, own))) for own in families]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0].tracks == results[1].tracks
    assert all(torch.isfinite(results[0][index].latents).all() for index in range(6))
    assert not list(root.rglob("*.partial"))
