"""Landmarks: what they depend on, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.fingerprint import FRAME_S, Fingerprint, fingerprint
from acestep.audio.streaming import Audio
from acestep.errors import InputError

RATE = 44100


def music(seed: int, duration_s: float = 8.0) -> Audio:
    """Notes at random times and pitches, each with four partials and a decay."""
    generator = np.random.default_rng(seed)
    audio = np.zeros(int(duration_s * RATE), np.float32)
    for start in np.arange(0, duration_s - 0.1, 0.15) + generator.uniform(0, 0.1):
        time = np.arange(int(0.6 * RATE)) / RATE
        note = sum(
            np.exp(-4 * k * time) * np.sin(2 * np.pi * k * generator.uniform(150, 900) * time) / k for k in range(1, 5)
        )
        at = int(start * RATE)
        audio[at : at + len(time)] += 0.1 * note[: len(audio) - at].astype(np.float32)
    return np.stack([audio, audio])


def same(left: Fingerprint, right: Fingerprint) -> bool:
    return np.array_equal(left.hashes, right.hashes) and np.array_equal(left.frames, right.frames)


@pytest.mark.parametrize("block", [997, 44100, 100_000])
def test_blocks_of_any_size_give_the_same_landmarks(block: int) -> None:
    audio = music(0, 12.0)
    pieces = [audio[:, start : start + block] for start in range(0, audio.shape[1], block)]
    whole = fingerprint(audio, RATE)
    assert len(whole) > 300
    assert same(fingerprint(pieces, RATE), whole)
    assert whole.duration_s == pytest.approx(12.0)


def test_loudness_changes_no_landmark() -> None:
    audio = music(1)
    whole = fingerprint(audio, RATE)
    quiet = fingerprint(audio * np.float32(0.125), RATE)
    shared = len(np.intersect1d(whole.hashes, quiet.hashes))
    assert shared > 0.98 * len(np.unique(whole.hashes))


def test_mono_and_stereo_of_the_same_sound_are_one() -> None:
    audio = music(2)
    assert same(fingerprint(audio, RATE), fingerprint(audio[:1], RATE))


def test_another_sample_rate_keeps_most_landmarks() -> None:
    import soxr

    audio = music(3)
    other = soxr.resample(audio.T, RATE, 22050).T.astype(np.float32)
    left, right = fingerprint(audio, RATE), fingerprint(other, 22050)
    assert len(np.intersect1d(left.hashes, right.hashes)) > 0.8 * len(np.unique(left.hashes))


def test_a_later_start_moves_the_landmarks_by_as_much() -> None:
    audio = music(4)
    late = 32 * 256 * 5  # samples: a whole number of frames at this rate
    moved = fingerprint(np.pad(audio, ((0, 0), (int(late * 44100 / 8000), 0))), RATE)
    still = fingerprint(audio, RATE)
    assert moved.frames[0] - still.frames[0] == pytest.approx(late / 256, abs=1)


def test_a_passage_holds_the_landmarks_of_its_time() -> None:
    whole = fingerprint(music(5), RATE)
    part = whole.between(2.0, 5.0)
    inside = (whole.frames * FRAME_S >= 2.0 - FRAME_S) & (whole.frames * FRAME_S < 5.0 - FRAME_S)
    assert part.duration_s == 3.0
    assert abs(len(part) - inside.sum()) <= 20
    assert part.frames.min() >= 0
    assert part.frames.max() * FRAME_S <= 3.0


@pytest.mark.parametrize("samples", [0, 1, 100, 1024, 5000])
def test_silence_and_moments_have_no_landmarks(samples: int) -> None:
    assert len(fingerprint(np.zeros((2, samples), np.float32), RATE)) == 0
    assert len(fingerprint(music(6)[:, :samples], RATE)) < 20


def test_no_blocks_are_an_empty_recording() -> None:
    empty = fingerprint([], RATE)
    assert len(empty) == 0
    assert empty.duration_s == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_no_sound_are_named(bad: float) -> None:
    audio = music(7)
    audio[1, 1000] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        fingerprint(audio, RATE)


def test_a_row_of_samples_is_no_block() -> None:
    with pytest.raises(InputError, match=r"expected \(channels, samples\)"):
        fingerprint([np.zeros(1000, np.float32)], RATE)
    with pytest.raises(InputError, match="sample rate is 0"):
        fingerprint(np.zeros((2, 1000), np.float32), 0)
