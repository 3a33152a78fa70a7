"""Planted copies are found with their passages; songs of the same style are not accused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from acestep.audio.files import read_audio, write_audio
from acestep.audio.spectrogram import mel_levels_db
from acestep.audio.streaming import Audio
from acestep.datasets import CachedTrack, CachedVariant, LatentDataset
from acestep.datasets.augmentation import Change
from acestep.datasets.latent_cache import CacheWriteError, LatentCache
from acestep.datasets.synthesis import make_track
from acestep.errors import DatasetError, InputError
from acestep.evaluation.memorisation import Song, describe_song, find_memorised
from acestep.evaluation.repetition import Memorisation, Passage, SongMemory

RATE = 44100
LATENT_RATE = RATE / 4096
TRACK_S, SONG_S, START_S = 24.0, 8.0, 9.37
STYLES = ("jazz", "rock", "orchestral", "lofi")


def hear(audio: Audio) -> Tensor:
    """A codec's stand-in: the levels of 128 mel bands, at the rate of v1's latents -> (8, 16, frames)"""
    frames = audio.shape[1] // 4096
    levels = mel_levels_db(audio.mean(axis=0), RATE, bands=128, columns=frames)
    return torch.from_numpy(np.maximum(levels, levels.max() - 60)).float().unflatten(0, (8, 16))


@cache
def recording(number: int) -> Audio:
    return make_track(STYLES[number % len(STYLES)], seed=number, duration_s=TRACK_S).audio


@cache
def same_style(number: int) -> Audio:
    return make_track(STYLES[number % len(STYLES)], seed=500 + number, duration_s=SONG_S).audio


def song(name: str, audio: Audio) -> Song:
    return describe_song(name, audio, RATE, latents=hear(audio))


def remembered(number: int) -> Song:
    """A song whose latents are those of a track's 90 frames, as a model makes them anew that has learned them."""
    latents = hear(recording(number))[..., 100:190]
    made = latents + 0.1 * latents.std() * torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
    return describe_song("copy", same_style(number), RATE, latents=made)


def write_tracks(folder: Path, tracks: list[Audio], **changes: object) -> LatentDataset:
    cache_ = LatentCache(folder / ".cache")
    cached = []
    for number, audio in enumerate(tracks):
        name = f"track_{number:03}.wav"
        write_audio(folder / "audio" / name, audio, RATE)
        path = cache_.path("latents", name=name)
        latents = hear(audio)
        cache_.store(path, {"latents": latents})
        cached.append(CachedTrack(name, name, "", latents.shape[-1], path, path))
    return replace(LatentDataset(tuple(cached), crop_frames=100), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dataset")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> LatentDataset:
    return write_tracks(folder, [recording(number) for number in range(8)])


def excerpt(number: int, start_s: float = START_S, duration_s: float = SONG_S) -> Audio:
    first = int(start_s * RATE)
    return recording(number)[:, first : first + int(duration_s * RATE)]


def low_passed(audio: Audio) -> Audio:
    spectrum, hertz = np.fft.rfft(audio), np.fft.rfftfreq(audio.shape[1], 1 / RATE)
    return np.fft.irfft(spectrum / np.sqrt(1 + (hertz / 3000) ** 8), audio.shape[1]).astype(np.float32)


def coded(audio: Audio, folder: Path) -> Audio:
    return read_audio(write_audio(folder / "coded.mp3", audio, RATE))[:, : audio.shape[1]]


def level(audio: Audio) -> float:
    return float(np.sqrt(np.square(audio).mean()))


def inside(number: int, over: Audio) -> Audio:
    audio = over.copy()
    audio[:, 2 * RATE : 7 * RATE] = excerpt(number, duration_s=5.0)
    return audio


def under(copy: Audio, over: Audio) -> Audio:
    return over + copy * np.float32(0.5 * level(over) / level(copy))


CHANGES: dict[str, Callable[[int, Path], Audio]] = {
    "exact": lambda number, _: excerpt(number),
    "quieter": lambda number, _: excerpt(number) * np.float32(0.25),
    "low-passed": lambda number, _: low_passed(excerpt(number)),
    "mp3": lambda number, folder: coded(excerpt(number), folder),
    "five seconds inside": lambda number, _: inside(number, same_style(number + 1)),
}


@pytest.fixture(scope="module")
def found(dataset: LatentDataset, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Memorisation:
    """All songs of this module in one search: copies, faint copies and songs of the same styles."""
    place = tmp_path_factory.mktemp("coded")
    songs = [
        song(f"{change} {number}", make(number, place)) for change, make in CHANGES.items() for number in (0, 1, 2)
    ]
    songs += [song(f"under {number}", under(excerpt(number), same_style(3))) for number in (0, 1, 2)]
    songs += [song(f"style {number}", same_style(number)) for number in range(12)]
    return find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=folder)


def named(found: Memorisation, name: str) -> SongMemory:
    return next(memory for memory in found.songs if memory.song == name)


def sounds_alike(passage: Passage, number: int, song_starts_s: float) -> bool:
    """Whether the two passages are the same music: at the planted place, or at one where the track repeats itself."""
    wanted = passage.song_start_s + song_starts_s
    if abs(passage.track_start_s - wanted) < 0.2:
        return True
    length_s = min(passage.song_end_s - passage.song_start_s, TRACK_S - max(passage.track_start_s, wanted))
    left, right = (hear(excerpt(number, start, length_s)).flatten(0, 1) for start in (passage.track_start_s, wanted))
    frames = min(left.shape[1], right.shape[1])
    return float(torch.corrcoef(torch.stack([left[:, :frames].flatten(), right[:, :frames].flatten()]))[0, 1]) > 0.8


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_copy_is_found_with_both_passages(change: str, number: int, found: Memorisation) -> None:
    memory = named(found, f"{change} {number}")
    assert memory.alarm is not None
    passage = memory.alarm.passage
    assert passage.track == f"track_{number:03}.wav"
    starts_s = START_S - (2.0 if change == "five seconds inside" else 0.0)
    assert sounds_alike(passage, number, starts_s)
    assert passage.song_end_s - passage.song_start_s > 3
    assert passage.song_end_s <= SONG_S + 0.2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_copy_six_decibels_under_another_song_is_worth_hearing(number: int, found: Memorisation) -> None:
    memory = named(found, f"under {number}")
    assert memory.grade in ("repeats", "resembles")
    assert memory.surest is not None
    assert memory.surest.passage.track == f"track_{number:03}.wav"


def test_landmarks_that_latents_do_not_confirm_are_no_accusation(dataset: LatentDataset, folder: Path) -> None:
    """The same chord of the same instrument has the same landmarks, in another song too."""
    noise = torch.randn(8, 16, 86, generator=torch.Generator().manual_seed(0))
    contradicted = describe_song("copy", excerpt(1), RATE, latents=20 * noise)
    memory = find_memorised([contradicted], dataset, latent_rate=LATENT_RATE, recordings=folder).songs[0]
    assert memory.nearest[0].value > memory.nearest[0].level.threshold
    assert memory.grade == "resembles"


def test_songs_of_the_same_styles_are_not_accused(found: Memorisation) -> None:
    assert [memory.song for memory in found.alarms if memory.song.startswith("style")] == []


def test_thresholds_come_from_other_training_tracks(found: Memorisation) -> None:
    assert [level.measure.name for level in found.levels] == ["fingerprint", "latents"]
    for chance in found.levels:
        assert chance.count > 20
        assert chance.highest is not None
        assert chance.threshold > chance.highest


def test_the_result_is_json_and_says_what_to_listen_to(found: Memorisation) -> None:
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert "repeat a passage of track_000.wav" in told["verdict"]
    heard = next(entry for entry in told["songs"] if entry["song"] == "exact 0")
    assert heard["grade"] == "repeats"
    assert heard["listen"]["track"] == "track_000.wav"
    assert told["share"]["low"] < told["share"]["value"] < told["share"]["high"]


def test_the_same_songs_give_the_same_result(dataset: LatentDataset, folder: Path) -> None:
    songs = [song("copy", excerpt(3)), song("style", same_style(0))]
    first, second = (
        find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=folder).as_dict() for _ in range(2)
    )
    assert first == second


def test_without_recordings_latents_alone_find_the_copy(dataset: LatentDataset) -> None:
    told: list[tuple[int, int]] = []
    result = find_memorised([remembered(2)], dataset, latent_rate=LATENT_RATE, progress=lambda *step: told.append(step))
    assert result.alarms
    assert [what for what, _ in result.left_out] == ["memorisation by fingerprint"]
    assert told[-1] == (8, 8)


def test_without_latents_fingerprints_alone_find_the_copy(dataset: LatentDataset, folder: Path) -> None:
    bare = describe_song("copy", excerpt(2), RATE)
    result = find_memorised([bare], dataset, latent_rate=LATENT_RATE, recordings=folder)
    assert result.alarms
    assert result.left_out == (("memorisation by latents", "no song has latents to compare"),)


def test_a_missing_recording_is_named_and_the_rest_compared(
    dataset: LatentDataset, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "audio").mkdir()
    for number in (1, 2):
        name = f"track_{number:03}.wav"
        (tmp_path / "audio" / name).symlink_to(folder / "audio" / name)
    result = find_memorised([song("copy", excerpt(2))], dataset, latent_rate=LATENT_RATE, recordings=tmp_path)
    assert ("fingerprint of track_000.wav", "it is not there; check the name") in result.left_out
    assert {nearest.measure for nearest in result.songs[0].nearest} == {"fingerprint", "latents"}


def test_kept_fingerprints_are_those_of_the_recordings(
    dataset: LatentDataset, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, songs = LatentCache(tmp_path), [song("copy", excerpt(1))]
    first, second = (
        find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=place, cache=kept).as_dict()
        for place in (folder, tmp_path / "nothing here")
    )
    assert first == second
    damaged = next((tmp_path / "fingerprints").rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=folder, cache=kept).as_dict() == first

    def is_full(*_: object) -> None:
        raise CacheWriteError("no space left")

    monkeypatch.setattr(kept, "store", is_full)
    damaged.unlink()
    assert find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=folder, cache=kept).as_dict() == first


def test_copies_among_the_tracks_do_not_hide_a_copy_in_a_song(dataset: LatentDataset, folder: Path) -> None:
    twice = replace(dataset.tracks[2], name="track_002_again.wav", content="encoded anew")
    doubled = replace(dataset, tracks=(*dataset.tracks, twice))
    result = find_memorised([remembered(2)], doubled, latent_rate=LATENT_RATE)
    assert result.related == (("track_002.wav", "track_002_again.wav"),)
    assert result.alarms


def test_a_remembered_variant_is_told_with_the_recordings_own_times(tmp_path: Path) -> None:
    dataset = write_tracks(tmp_path, [recording(number) for number in range(4)])
    faster = Change(semitones=2, tempo=1.25)
    variant = CachedVariant(faster, "", dataset.tracks[3].frames, dataset.tracks[3].latents, dataset.tracks[3].latents)
    # Track 0 was also heard as if it were track 3; so a song like track 3 is a memory of track 0, changed.
    changed = (replace(dataset.tracks[0], variants=(variant,)), *dataset.tracks[1:3])
    result = find_memorised([song("copy", excerpt(3))], replace(dataset, tracks=changed), latent_rate=LATENT_RATE)
    passage = result.songs[0].nearest[0].passage
    assert (passage.track, passage.change) == ("track_000.wav", str(faster))
    assert passage.track_start_s == pytest.approx((START_S + passage.song_start_s) * 1.25, abs=0.3)


def test_one_track_alone_has_fixed_thresholds(tmp_path: Path) -> None:
    dataset = write_tracks(tmp_path, [recording(2)])
    songs = [song("copy", excerpt(2)), song("style", same_style(2))]
    result = find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=tmp_path)
    assert [memory.song for memory in result.alarms] == ["copy"]
    assert all("too few" in chance.basis for chance in result.levels)


def test_unrelated_songs_measure_chance_where_tracks_cannot(tmp_path: Path) -> None:
    dataset = write_tracks(tmp_path, [recording(2)])
    others = [song(f"base {number}", same_style(number)) for number in range(10)]
    result = find_memorised([remembered(2)], dataset, latent_rate=LATENT_RATE, unrelated=others)
    assert result.levels[0].count == 10
    assert result.alarms


def test_silence_noise_and_moments_are_like_nothing(dataset: LatentDataset, folder: Path) -> None:
    generator = np.random.default_rng(0)
    songs = [
        song("silence", np.zeros((2, 8 * RATE), np.float32)),
        song("noise", generator.normal(0, 0.1, (2, 8 * RATE)).astype(np.float32)),
        song("a second", excerpt(0, duration_s=1.0)),
        describe_song("nothing", np.zeros((2, 0), np.float32), RATE),
    ]
    result = find_memorised(songs, dataset, latent_rate=LATENT_RATE, recordings=folder)
    assert result.alarms == ()
    left_out = dict(result.left_out)
    assert left_out["latents of a second"] == "it is 1.0 s long; 4 s are compared at once"
    assert {"latents of silence", "latents of nothing"} <= set(left_out)
    json.dumps(result.as_dict(), allow_nan=False)


def test_bad_input_is_named(dataset: LatentDataset, tmp_path: Path) -> None:
    broken = excerpt(0).copy()
    broken[0, 5] = np.nan
    with pytest.raises(InputError, match="song x: the audio holds NaN"):
        describe_song("x", broken, RATE)
    with pytest.raises(InputError, match="song x: its latents hold NaN"):
        describe_song("x", excerpt(0), RATE, latents=torch.full((8, 16, 20), torch.nan))
    one = song("one", excerpt(0))
    with pytest.raises(InputError, match="same name"):
        find_memorised([one, one], dataset, latent_rate=LATENT_RATE)
    with pytest.raises(InputError, match="0 songs"):
        find_memorised([], dataset, latent_rate=LATENT_RATE)
    gone = replace(dataset, tracks=(replace(dataset.tracks[0], latents=tmp_path / "gone"),))
    with pytest.raises(DatasetError, match="prepare the dataset again"):
        find_memorised([one], gone, latent_rate=LATENT_RATE)
