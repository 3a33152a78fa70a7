"""Landmark fingerprints: which passage of which recording a sound is a copy of.

Peaks of the spectrogram are paired, and a pair's two frequencies and distance in time make a hash that a copy shares
with its original; a copy's hashes all agree on one shift in time (Wang 2003, "An industrial-strength audio search
algorithm"). Louder, filtered, noisy, coded and mixed copies are found, down to a few seconds; copies at another pitch
or speed are not. A minute of music takes about 0.05 s and 75 kB, twice that in an index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from acestep.audio.streaming import Audio
from acestep.errors import InputError

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]

FINGERPRINT_VERSION = 1
"""Raise it when a change to this module changes fingerprints: kept ones are made again."""
RATE = 8000
"""Hz. What lies above 4 kHz is the first that codecs and filters take."""
WINDOW, HOP = 1024, 256
FRAME_S = HOP / RATE
LOWEST_BIN, HIGHEST_BIN = 8, 512
"""From 62 Hz: below it lie rumble and offsets."""
REACH_FRAMES, REACH_BINS = 6, 10
"""A peak is the loudest point within so many frames and bins on each side; so music of any loudness has 36 a second."""
RANGE_DB, RANGE_FRAMES = 50.0, 16
"""Peaks this far below the loudest one within half a second are what codecs and noise make of silence."""
SILENT_DB = -80.0
NEAREST, FARTHEST = 2, 33
"""Frames between the two peaks of a landmark."""
WIDEST = 31
"""Bins between them."""
FAN = 6
CHUNK = 1024
CONTEXT = max(REACH_FRAMES, RANGE_FRAMES)
_WIDTH_SHIFT, BIN_SHIFT = 6, 12
"""A hash is bin, width and distance, from the highest bit down."""
_NO_PEAKS = np.zeros((2, 0), np.int64)


@dataclass(frozen=True)
class Fingerprint:
    """Landmarks in the order of time.

    hashes: (landmarks,) uint32, the two frequencies and the distance between two peaks; frames: (landmarks,) int32,
    when the first of them sounds, in units of FRAME_S.
    """

    hashes: NDArray[np.uint32]
    frames: NDArray[np.int32]
    duration_s: float

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def length(self) -> int:
        """Frames, the last one whole."""
        return int(self.duration_s / FRAME_S) + 1

    def between(self, start_s: float, end_s: float) -> Fingerprint:
        """The fingerprint of a passage, its times counted from `start_s`."""
        first, last = round(start_s / FRAME_S), round(end_s / FRAME_S)
        rows = slice(*np.searchsorted(self.frames, [first, last]))
        frames = (self.frames[rows] - first).astype(np.int32)
        return Fingerprint(self.hashes[rows], frames, min(end_s, self.duration_s) - start_s)


def fingerprint(audio: Audio | Iterable[Audio], sample_rate: int) -> Fingerprint:
    """Landmarks of a recording, given whole or in blocks of (channels, samples), of which a few seconds are held.

    Silence has none. InputError for samples that are no numbers, and for what is not (channels, samples).
    """
    if sample_rate <= 0:
        raise InputError(f"the sample rate is {sample_rate}; expected samples a second, such as 44100")
    blocks = [audio] if isinstance(audio, np.ndarray) else audio
    heard = _Heard()
    peaks = [_NO_PEAKS]
    origin, done = -CONTEXT, 0
    held = np.full((CONTEXT, HIGHEST_BIN), -np.inf, np.float32)
    for levels in _levels(_resampled(heard.mono(blocks), sample_rate)):
        held = np.concatenate([held, levels])
        end = origin + len(held) - CONTEXT
        if end > done:
            peaks.append(_find_peaks(held, CONTEXT) + np.array([[origin], [0]]))
            held, origin, done = held[end - CONTEXT - origin :], end - CONTEXT, end
    hashes, frames = _pair(*np.concatenate(peaks, axis=1))
    return Fingerprint(hashes, frames, heard.samples / sample_rate)


class _Heard:
    """Blocks checked and mixed to mono, and how many samples went by."""

    def __init__(self) -> None:
        self.samples = 0

    def mono(self, blocks: Iterable[Audio]) -> Iterator[Floats]:
        for block in blocks:
            if np.ndim(block) != 2:
                raise InputError(f"a block of audio has shape {np.shape(block)}; expected (channels, samples)")
            mono = np.asarray(block, dtype=np.float32).mean(axis=0)
            if not np.isfinite(mono).all():
                raise InputError("the audio holds NaN or infinite samples; the model or file it came from is broken")
            self.samples += len(mono)
            yield mono


def _resampled(blocks: Iterator[Floats], sample_rate: int) -> Iterator[Floats]:
    """The same at RATE in pieces of at most CHUNK frames, and as many zeros after them as no frame is lost."""
    stream = soxr.ResampleStream(sample_rate, RATE, 1, dtype="float32", quality="MQ")
    piece = CHUNK * HOP * sample_rate // RATE + 1
    for block in blocks:
        for start in range(0, len(block), piece):
            yield stream.resample_chunk(block[start : start + piece])
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
    yield np.zeros(WINDOW, np.float32)


def _levels(blocks: Iterator[Floats]) -> Iterator[Floats]:
    """Decibels of consecutive frames, (frames, HIGHEST_BIN) at a time; after the last, as many that hold nothing as
    peaks are compared with."""
    held = np.zeros(0, np.float32)
    window = np.hanning(WINDOW).astype(np.float32) * np.float32(4 / WINDOW)
    for block in blocks:
        held = np.concatenate([held, block])
        if len(held) < WINDOW:
            continue
        frames = np.lib.stride_tricks.sliding_window_view(held, WINDOW)[::HOP]
        amplitude = np.abs(np.fft.rfft(frames * window, axis=1)[:, :HIGHEST_BIN]).astype(np.float32)
        yield 20 * np.log10(amplitude + np.float32(1e-7))
        held = held[len(frames) * HOP :]
    yield np.full((CONTEXT, HIGHEST_BIN), -np.inf, np.float32)


def _find_peaks(levels: Floats, context: int) -> Whole:
    """Frames and bins of peaks, (2, peaks) by time; none in the first and last `context` frames."""
    around = _running_max(_running_max(levels, REACH_FRAMES, axis=0), REACH_BINS, axis=1)
    loudest = _running_max(levels.max(axis=1, keepdims=True), RANGE_FRAMES, axis=0)
    found = (levels >= around) & (levels > np.maximum(loudest - RANGE_DB, SILENT_DB))
    found[:, :LOWEST_BIN] = False
    found[:context] = found[len(found) - context :] = False
    return np.stack(np.nonzero(found))


def _running_max(values: Floats, reach: int, *, axis: int) -> Floats:
    """The largest value within `reach` places on each side, in log2(reach) passes."""
    values = np.moveaxis(values, axis, -1)
    edge = np.full((*values.shape[:-1], reach), -np.inf, np.float32)
    running = np.concatenate([edge, values, edge], axis=-1)
    width, covered = 2 * reach + 1, 1
    while covered < width:
        step = min(covered, width - covered)
        running = np.maximum(running[..., :-step], running[..., step:])
        covered += step
    return np.moveaxis(running, -1, axis)


def _pair(frames: Whole, bins: Whole) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Each peak with the FAN nearest that follow it within its zone -> hashes and frames by time."""
    count = np.zeros(len(frames), np.int64)
    hashes, anchors = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for step in range(1, len(frames)):
        apart, wide = frames[step:] - frames[:-step], bins[step:] - bins[:-step]
        if apart.min() > FARTHEST:
            break
        paired = (apart >= NEAREST) & (apart <= FARTHEST) & (np.abs(wide) <= WIDEST) & (count[: len(apart)] < FAN)
        (first,) = np.nonzero(paired)
        count[first] += 1
        hashes.append(bins[first] << BIN_SHIFT | (wide[first] + WIDEST) << _WIDTH_SHIFT | apart[first])
        anchors.append(first)
    anchor = np.concatenate(anchors)
    order = np.argsort(anchor, kind="stable")
    return np.concatenate(hashes)[order].astype(np.uint32), frames[anchor[order]].astype(np.int32)
