"""Pitch and tempo of recordings, each without the other: Signalsmith Stretch through python-stretch.

About 70 times faster than real time on one core. The library takes a whole recording at a time, so long ones go through
in pieces that are faded into each other; some 90 MB are held, however long the recording is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from acestep.audio.streaming import Audio
from acestep.errors import InputError

PIECE_S = 60.0
CONTEXT_S = 0.5
"""Heard on each side of a piece and thrown away: the library sees 0.12 s at once."""
FADE_S = 0.05
MAX_LAG_S = 0.005
"""How far a piece may be moved to meet the one before it in phase: half a period at 100 Hz."""
MAX_SEMITONES = 24.0
TEMPO_RANGE = (0.25, 4.0)
_TONALITY_LIMIT_HZ = 8000.0
"""Above it overtones are moved less, as the library's author advises: shifted down, a song keeps its air."""
_SEED = 0


def stretch(
    blocks: Iterable[Audio], sample_rate: int, *, semitones: float = 0.0, tempo: float = 1.0, piece_s: float = PIECE_S
) -> Iterator[Audio]:
    """Blocks (2, samples) -> blocks of the same music, `semitones` higher and `tempo` times as fast, in [-1, 1].

    Of n samples in all come round(n / tempo). Both channels go through together, so what is in phase stays so. Equal
    input gives equal output. InputError for what is beyond two octaves or TEMPO_RANGE.
    """
    if not abs(semitones) <= MAX_SEMITONES or not TEMPO_RANGE[0] <= tempo <= TEMPO_RANGE[1]:
        low, high = TEMPO_RANGE
        raise InputError(
            f"{semitones:g} semitones at {tempo:g} times the tempo; expected at most {MAX_SEMITONES:g} semitones either"
            f" way and a tempo of {low:g} to {high:g}"
        )
    if semitones == 0 and tempo == 1:
        yield from blocks
        return
    fade, tail = round(FADE_S * sample_rate), np.zeros((2, 0), np.float32)
    for source, start, first, last, end in _pieces(blocks, sample_rate, piece_s):
        stretched = _stretch_whole(source, sample_rate, semitones, tempo)
        origin = round(start / tempo)
        # A piece begins half a fade before its first sample and ends half a fade after its last.
        begin = round(first / tempo) - (fade // 2 if tail.shape[1] else 0)
        finish = round(end / tempo) if last else round(end / tempo) + fade - fade // 2
        lag = _best_lag(tail, stretched, begin - origin, round(MAX_LAG_S * sample_rate)) if tail.shape[1] else 0
        piece = _from_to(stretched, begin - origin + lag, finish - origin + lag)
        if tail.shape[1]:
            piece[:, : tail.shape[1]] = _cross_fade(tail, piece[:, : tail.shape[1]])
        kept = piece.shape[1] - (0 if last else fade)
        tail = piece[:, kept:]
        if kept:
            yield np.clip(piece[:, :kept], -1, 1)


def _pieces(blocks: Iterable[Audio], sample_rate: int, piece_s: float) -> Iterator[tuple[Audio, int, int, bool, int]]:
    """(samples with context, their place, the piece's first sample, whether it is the last, the sample after it)"""
    size, context = round(piece_s * sample_rate), round(CONTEXT_S * sample_rate)
    parts: list[Audio] = []
    start = first = held = 0
    for block in blocks:
        parts.append(block)
        held += block.shape[1]
        # The last piece must be no crumb: another whole one has to be there before this one is cut off.
        while start + held >= first + 2 * size + context:
            buffer = np.concatenate(parts, axis=1)
            end = first + size
            yield buffer[:, : end + context - start], start, first, False, end
            buffer = buffer[:, end - context - start :].copy()
            start, first, parts, held = end - context, end, [buffer], buffer.shape[1]
    if held:
        yield np.concatenate(parts, axis=1), start, first, True, start + held


def _stretch_whole(audio: Audio, sample_rate: int, semitones: float, tempo: float) -> Audio:
    try:
        from python_stretch import Signalsmith
    except ImportError as error:
        raise InputError("changing pitch or tempo needs python-stretch; pip install python-stretch") from error
    stretcher: Any = Signalsmith.Stretch(_SEED)
    stretcher.preset(2, sample_rate)
    stretcher.setTimeFactor(tempo)
    stretcher.setTransposeSemitones(semitones, _TONALITY_LIMIT_HZ / sample_rate)
    stretched: Audio = stretcher.process(np.ascontiguousarray(audio, dtype=np.float32))
    return stretched


def _from_to(audio: Audio, begin: int, end: int) -> Audio:
    """Those samples, and silence where there are none: rounding may leave a piece a sample short."""
    piece = np.zeros((2, end - begin), np.float32)
    found = audio[:, max(begin, 0) : end]
    piece[:, : found.shape[1]] = found
    return piece


def _best_lag(tail: Audio, stretched: Audio, begin: int, reach: int) -> int:
    """By how many samples the passage at `begin` has to be read later to be most like `tail`."""
    size = tail.shape[1]
    passage = _from_to(stretched, begin - reach, begin + size + reach).sum(axis=0, dtype=np.float64)
    likeness = np.correlate(passage, tail.sum(axis=0, dtype=np.float64), mode="valid")
    energy = np.concatenate([[0.0], np.cumsum(np.square(passage))])
    return int((likeness / np.sqrt(energy[size:] - energy[:-size] + 1e-9)).argmax()) - reach


def _cross_fade(old: Audio, new: Audio) -> Audio:
    """From `old` to `new` at equal loudness, however alike the two are.

    Two pieces tell the same passage with other phases. Gains g and h of parts with correlation r give the power
    g^2 + h^2 + 2 g h r, which is divided out.
    """
    power = float(np.sqrt(np.square(old, dtype=np.float64).sum() * np.square(new, dtype=np.float64).sum()))
    alike = max(float((old.astype(np.float64) * new).sum()) / power, 0.0) if power else 1.0
    rising = (np.arange(old.shape[1], dtype=np.float64) + 0.5) / old.shape[1]
    falling = 1 - rising
    loudness = np.sqrt(rising**2 + falling**2 + 2 * alike * rising * falling)
    faded: Audio = ((falling * old + rising * new) / loudness).astype(np.float32)
    return faded
