import json
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from acestep.datasets import LatentDataset, PreparationProgress, prepare_dataset
from acestep.datasets.augmentation import Augmentation
from acestep.datasets.encoding import encode_blocks
from acestep.datasets.latent_cache import LatentCache
from acestep.errors import CheckpointError, DatasetError
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


TESTS = str(Path(__file__).parents[1])
TWO_COPIES = Augmentation(variants=2)


def annotate(root: Path, index: int, **values: object) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"track_{index:03}.json").write_text(json.dumps(values), encoding="utf-8")


def test_copies_are_encoded_once_with_prompts_that_follow(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    annotate(root, 0, prompt="drone", bpm=100, key="E minor", lyrics="la la")
    first, second = SmallFamily(), SmallFamily()
    dataset = prepare(root, first, augmentation=TWO_COPIES)
    assert prepare(root, second, augmentation=TWO_COPIES) == dataset
    assert second.encoded_s == 0
    track = dataset.tracks[0]
    assert track.prompt == "drone, calm, 100 bpm, E minor"
    keys = {-2: "D minor", -1: "Eb minor", 1: "F minor", 2: "F# minor"}
    for variant in track.variants:
        change = variant.change
        assert variant.prompt == f"drone, calm, {round(100 * change.tempo)} bpm, {keys[change.semitones]}"
        assert variant.frames == round(3 * 44100 / change.tempo) // 4096
    heard = {dataset.at_epoch(epoch).heard(0).latents for epoch in range(30)}
    assert heard == {version.latents for version in (track, *track.variants)}
    recorded = prepare(root, SmallFamily()).tracks[0]
    assert (recorded.latents, recorded.conditioning) == (track.latents, track.conditioning)
    assert all(torch.isfinite(dataset.at_epoch(epoch)[0].latents).all() for epoch in range(5))


def test_a_copy_in_the_cache_is_what_its_change_makes_of_the_recording(tmp_path: Path):
    from safetensors.torch import load_file

    from acestep.audio.streaming import stream_recording

    root = write_dataset(tmp_path / "data", tracks=1)
    variant = prepare(root, augmentation=Augmentation(variants=1)).tracks[0].variants[0]
    changed = variant.change.apply(stream_recording(root / "audio" / "track_000.wav", 44100), 44100)
    assert torch.equal(load_file(variant.latents)["latents"], encode_blocks(SmallFamily(), changed))


def test_more_copies_keep_those_that_are_there_and_other_tracks_change_none(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    before = prepare(root, augmentation=TWO_COPIES)
    write_tone(root / "audio" / "track_001.wav", 3.0, frequency=999)
    family = SmallFamily()
    after = prepare(root, family, augmentation=Augmentation(variants=3))
    assert after.tracks[0].variants[:2] == before.tracks[0].variants
    assert family.encoded_s == pytest.approx(
        3 + sum(3 / v.change.tempo for v in after.tracks[1].variants) + 3 / after.tracks[0].variants[2].change.tempo,
        abs=0.3,
    )
    assert before.split(0.5)[1] is not None


def test_a_key_that_cannot_be_told_anew_is_warned_about(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    annotate(root, 1, prompt="techno", key="8A")
    dataset = prepare(root, augmentation=TWO_COPIES)
    assert any("'8A' of track_001.wav" in warning for warning in dataset.warnings)
    assert {variant.change.semitones for variant in dataset.tracks[1].variants} == {0}
    assert not any("8A" in warning for warning in prepare(root).warnings)


def test_a_track_that_fails_is_one_problem_whatever_its_copies(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    write_silence(root / "audio" / "track_001.wav")
    seen: list[PreparationProgress] = []
    with pytest.raises(DatasetError) as error:
        prepare(root, augmentation=TWO_COPIES, on_progress=seen.append)
    assert str(error.value).count("track_001.wav") == 1
    assert (seen[-1].tracks_done, seen[-1].versions_done, seen[-1].versions) == (2, 6, 6)


def test_progress_counts_copies_and_its_estimate_falls_to_nothing(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)
    seen: list[PreparationProgress] = []
    prepare(root, augmentation=TWO_COPIES, on_progress=seen.append)
    assert [progress.versions_done for progress in seen] == list(range(1, 10))
    assert [progress.tracks_done for progress in seen] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert all(progress.versions == 9 for progress in seen)
    assert all(earlier.encoded_s < later.encoded_s for earlier, later in pairwise(seen))
    assert seen[-1].remaining_s == 0


def test_a_damaged_entry_is_made_again(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    dataset = prepare(root)
    first, second = dataset.tracks
    wanted = dataset[0].latents
    first.latents.write_bytes(first.latents.read_bytes()[:-100])
    LatentCache(root).store(second.conditioning, {"something": torch.zeros(1)})
    family = SmallFamily()
    again = prepare(root, family)
    assert family.encoded_s == pytest.approx(3, abs=0.1)
    assert torch.equal(again[0].latents, wanted)
    assert again[1].conditioning.batch_size == 1


def test_a_recording_that_vanished_is_still_served_from_the_cache(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    dataset = prepare(root)
    (root / "audio" / "track_000.wav").unlink()
    assert dataset[0].track == "track_000.wav"
    assert len(prepare(root)) == 1


def test_a_recording_that_changes_while_it_is_read_is_named(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    changing = root / "audio" / "track_001.wav"
    # The first window of two minutes is encoded while the last blocks are not read yet.
    write_tone(changing, 200.0, rate=8000, channels=1)

    class Touching(SmallFamily):
        def encode_audio(self, audio: torch.Tensor) -> torch.Tensor:
            os.utime(changing, ns=(0, 0))
            return super().encode_audio(audio)

    with pytest.raises(DatasetError, match=r"track_001\.wav: it changed while it was read"):
        prepare(root, Touching())
    assert len(prepare(root)) == 2


def test_a_full_disk_names_the_folder_and_the_room_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from acestep.datasets import latent_cache

    root = write_dataset(tmp_path / "data", tracks=3)
    save, calls = latent_cache.save_file, 0

    def filling_up(tensors: object, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, target)  # type: ignore[arg-type]

    monkeypatch.setattr(latent_cache, "save_file", filling_up)
    with pytest.raises(DatasetError, match=r"\.cache cannot be written .*No space left.* needs about \d+ kB"):
        prepare(root)
    monkeypatch.undo()
    kinds = {path.suffix for path in (root / ".cache").rglob("*") if path.is_file()}
    assert kinds == {".safetensors"}
    family = SmallFamily()
    assert len(prepare(root, family)) == 3
    assert family.encoded_s == pytest.approx(6, abs=0.1)


def test_a_cache_that_may_not_be_written_is_an_error_and_one_that_is_complete_is_only_read(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=1)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="give another cache_dir"):
        prepare(root, cache_dir=tmp_path / "file" / "cache")


def test_what_prepares_leaves_no_thread_however_it_ends(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)

    def interrupt(progress: PreparationProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(root, augmentation=TWO_COPIES, on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    assert not list(root.rglob("*.claim"))
    assert len(prepare(root)) == 3


PREPARE = """
import sys, time
from small_family import SmallFamily
from acestep.datasets import prepare_dataset

class Slow(SmallFamily):
    def encode_audio(self, audio):
        print("encoding", flush=True)
        time.sleep(float(sys.argv[2]))
        return super().encode_audio(audio)

family = Slow()
prepare_dataset(sys.argv[1], family, max_duration_s=2.0)
print(f"encoded {family.encoded_s}", flush=True)
"""


def start(root: Path, pause_s: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": TESTS}
    command = [sys.executable, "-c", PREPARE, str(root), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_share_the_work(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=8)
    processes = [start(root, 0.2) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    encoded = [float(output.split("encoded ")[1]) for output in outputs]
    assert sum(encoded) == pytest.approx(8 * 3.0, abs=0.5)
    assert not list(root.rglob("*.claim"))
    assert len(prepare(root)) == 8


def test_a_process_killed_while_it_encodes_holds_nobody_up(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    with start(root, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "encoding\n"
        assert list(root.rglob("*.claim"))
        process.send_signal(signal.SIGKILL)
    family = SmallFamily()
    assert len(prepare(root, family)) == 2
    assert family.encoded_s == pytest.approx(6, abs=0.1)
    assert not list(root.rglob("*.claim"))


def test_one_who_waits_too_long_for_another_encodes_by_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from acestep.datasets import versions

    monkeypatch.setattr(versions, "WAIT_S", 0.3)
    root = write_dataset(tmp_path / "data", tracks=2)
    dataset = prepare(root, cache_dir=tmp_path / "other")
    cache = LatentCache(root / ".cache")
    held = cache.claim(cache.root / dataset.tracks[0].latents.relative_to(tmp_path / "other"))
    assert held is not None
    assert prepare(root).sha256 == dataset.sha256
    held.release()


def test_equal_recordings_are_encoded_once(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=3)
    for index in (1, 2):
        (root / "audio" / f"track_{index:03}.wav").write_bytes((root / "audio" / "track_000.wav").read_bytes())
    family = SmallFamily()
    dataset = prepare(root, family)
    assert family.encoded_s == pytest.approx(3, abs=0.1)
    assert [track.name for track in dataset.tracks] == [f"track_{index:03}.wav" for index in range(3)]
    assert len({track.latents for track in dataset.tracks}) == 1


def test_a_base_whose_encoder_makes_no_numbers_is_named_and_nothing_of_it_is_cached(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=2)
    family = SmallFamily()
    family.basis = family.basis * float("nan")
    with pytest.raises(CheckpointError, match=r"autoencoder makes NaN or infinity of track_000\.wav"):
        prepare(root, family)
    assert not list((root / ".cache" / "latents").rglob("*.safetensors"))
