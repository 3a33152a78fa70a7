"""Which recordings share a passage with a given one, from their landmark fingerprints, and how unlikely by chance.

A copy's landmarks agree on one shift, so the shift is found by counting (Wang 2003). The passage and its score come
from the run of landmarks along it: found and missed ones add the logarithms of their likelihood ratios between "a
copy" and "chance", and the stretch with the largest sum is taken, whose chance has an exponential tail (Karlin and
Altschul 1990, https://doi.org/10.1073/pnas.87.6.2264). That holds for recordings that have nothing to do with each
other. Music at one tempo in one key, with the same drums, scores higher: measure pairs that are known to be unrelated.

Memory: 16 bytes a landmark, some 450 kB for three minutes of music. Ten seconds are found among 100 such recordings in
less than 0.3 s, however often they repeat themselves.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from acestep.audio.fingerprint import BIN_SHIFT, FRAME_S, Fingerprint
from acestep.errors import InputError

Whole = NDArray[np.int64]

SLACK = 1
"""Frames by which a landmark of a copy may come early or late."""
COPY_SHARE = 0.1
"""The share of landmarks that a copy under another song, or through a codec, still has."""
LEAST_CHANCE = 1e-3
MOST_HITS = 2_000_000
"""Landmarks that are everywhere, such as a drum machine's, are left out once so many places have been counted."""
CANDIDATES = 6
SHIFTS = 4
"""Recordings, and shifts of each, that are looked at closely, for each recording that is asked for; music that repeats
itself fits at several shifts."""


@dataclass(frozen=True)
class Match:
    """A passage of a query that sounds like one of a reference.

    reference: its name in the index; score: in nats, so that by chance exp(-score) such passages are expected in two
    unrelated recordings of these lengths; share: of the passage's landmarks that the reference has at the same place;
    offset_s: the reference's time less the query's; start_s, end_s: the passage in the query.
    """

    reference: Hashable
    score: float
    share: float
    offset_s: float
    start_s: float
    end_s: float

    @property
    def chance(self) -> float:
        """How many such passages are expected by chance."""
        return math.exp(min(-self.score, 700.0))

    @property
    def reference_start_s(self) -> float:
        return self.start_s + self.offset_s

    @property
    def reference_end_s(self) -> float:
        return self.end_s + self.offset_s


def match(query: Fingerprint, reference: Fingerprint) -> Match | None:
    """The passage of the query that is most surely one of the reference's; None where no landmark is shared."""
    index = FingerprintIndex()
    index.add("reference", reference)
    return next(iter(index.search(query, best=1)), None)


@dataclass
class FingerprintIndex:
    """Fingerprints of many recordings under names, searched all at once."""

    _prints: dict[Hashable, Fingerprint] = field(default_factory=dict)
    _landmarks: _Landmarks | None = None

    def __len__(self) -> int:
        return len(self._prints)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._prints

    def __getitem__(self, name: Hashable) -> Fingerprint:
        return self._prints[name]

    def add(self, name: Hashable, added: Fingerprint) -> None:
        """InputError for a name that is there already."""
        if name in self._prints:
            raise InputError(f"the index holds a recording called {name!r} already; give each its own name")
        self._prints[name] = added
        self._landmarks = None

    def search(self, query: Fingerprint, *, best: int = 1, without: Iterable[Hashable] = ()) -> list[Match]:
        """The `best` passages, one a recording, the highest score first; `without` names recordings to pass over."""
        if self._landmarks is None:
            self._landmarks = _Landmarks.of(list(self._prints.values()))
        passed_over = set(without)
        kept = np.array([name not in passed_over for name in self._prints], dtype=bool)
        hits = self._landmarks.hits(query, kept)
        names = list(self._prints)
        found = [
            _judged(hits, names[recording], self._prints[names[recording]], recording, offset)
            for recording, offset in hits.candidates(CANDIDATES * best)
        ]
        surest: dict[Hashable, Match] = {}
        for each in sorted(found, key=lambda match: -match.score):
            surest.setdefault(each.reference, each)
        return list(surest.values())[:best]


@dataclass(frozen=True)
class _Hits:
    """Where in the index a query's landmarks were found.

    hashes, frames, length: what of the query was looked up; peaks: frame and bin of each peak that these begin with, by
    time; peak_of: (landmarks,), its row in them; recordings, offsets, landmarks: (hits,), in what recording, at what
    offset in frames, of which landmark; by recording.
    """

    hashes: Whole
    frames: Whole
    length: int
    peaks: Whole
    peak_of: Whole
    recordings: Whole
    offsets: Whole
    landmarks: Whole

    def chance(self, recording: int, length: int) -> NDArray[np.float64]:
        """How likely the recording has each landmark at any one shift: as often as it has it at all. What returns with
        every bar says nothing of where a passage is from."""
        first, last = np.searchsorted(self.recordings, [recording, recording + 1])
        count = np.bincount(self.landmarks[first:last], minlength=len(self.hashes))
        return np.asarray(np.maximum(count, 1) * (2 * SLACK + 1) / length)

    def candidates(self, most: int) -> list[tuple[int, int]]:
        """Recordings with the offsets at which most hits agree, SHIFTS of each, for the recordings where most do."""
        if not len(self.offsets):
            return []
        # A number for each recording and offset, far enough apart that neighbours are of one recording.
        cells, count = np.unique(self.recordings << 40 | self.offsets + (1 << 38), return_counts=True)
        agreeing = count.copy()
        beside = np.nonzero(np.diff(cells) <= SLACK)[0]
        agreeing[beside] += count[beside + 1]
        agreeing[beside + 1] += count[beside]
        recordings, offsets = cells >> 40, (cells & ((1 << 40) - 1)) - (1 << 38)
        ranked = np.lexsort((-count, -agreeing, recordings))
        firsts = np.searchsorted(recordings[ranked], np.unique(recordings))
        chosen = firsts[np.argsort(-agreeing[ranked[firsts]], kind="stable")][:most]
        near = [
            cell
            for first in chosen
            for cell in ranked[first : first + SHIFTS]
            if recordings[cell] == recordings[ranked[first]]
        ]
        return [(int(recordings[cell]), int(offsets[cell])) for cell in near]


@dataclass(frozen=True)
class _Landmarks:
    """All landmarks by hash, and where each lies on the line of all recordings one after another.

    hashes, places: (landmarks,); starts: (recordings + 1,)
    """

    hashes: NDArray[np.uint32]
    places: NDArray[np.uint32]
    starts: Whole

    @staticmethod
    def of(prints: Sequence[Fingerprint]) -> _Landmarks:
        starts = np.cumsum([0, *(each.length for each in prints)])
        hashes = np.concatenate([np.zeros(0, np.uint32), *(each.hashes for each in prints)])
        places = [each.frames + np.uint32(start) for each, start in zip(prints, starts, strict=False)]
        order = np.argsort(hashes, kind="stable")
        return _Landmarks(hashes[order], np.concatenate([np.zeros(0, np.uint32), *places])[order], starts)

    def hits(self, query: Fingerprint, kept: NDArray[np.bool_]) -> _Hits:
        first, last = (np.searchsorted(self.hashes, query.hashes, side) for side in ("left", "right"))
        count = last - first
        rarest = np.argsort(count, kind="stable")
        rows = np.sort(rarest[np.cumsum(count[rarest]) <= MOST_HITS])
        first, count = first[rows], count[rows]
        hashes, frames = query.hashes[rows].astype(np.int64), query.frames[rows].astype(np.int64)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        landmarks = np.repeat(np.arange(len(rows)), count)
        places = self.places[first[landmarks] + within].astype(np.int64)
        recordings = np.searchsorted(self.starts, places, side="right") - 1
        offsets = places - self.starts[recordings] - frames[landmarks]
        order = np.argsort(recordings, kind="stable")
        order = order[kept[recordings[order]]]
        peaks, peak_of = np.unique(frames << 20 | hashes >> BIN_SHIFT, return_inverse=True)
        return _Hits(hashes, frames, query.length, peaks, peak_of, recordings[order], offsets[order], landmarks[order])


def _judged(hits: _Hits, name: Hashable, reference: Fingerprint, recording: int, offset: int) -> Match:
    """The passage along one shift. A trial is a peak of the query: found where any of its landmarks is."""
    shared = _shared(hits, reference, offset)
    chance = hits.chance(recording, reference.length)
    by_chance, ratio = _by_peak(chance, shared, hits.peak_of, len(hits.peaks))
    found = ratio < np.inf
    gain = np.log(COPY_SHARE) - np.log(np.clip(ratio, LEAST_CHANCE, COPY_SHARE))
    loss = np.log(1 - COPY_SHARE) - np.log(1 - np.clip(by_chance, 0, COPY_SHARE))
    score, first, last = _best_stretch(np.where(found, gain, loss))
    times = hits.peaks >> 20
    return Match(
        reference=name,
        score=score - math.log((reference.length + hits.length) * len(hits.peaks)),
        share=float(found[first : last + 1].mean()),
        offset_s=offset * FRAME_S,
        start_s=float(times[first] * FRAME_S),
        end_s=float((times[last] + 1) * FRAME_S),
    )


def _by_peak(
    chance: NDArray[np.float64], shared: NDArray[np.bool_], peak_of: Whole, peaks: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How likely a peak is found by chance, and how likely by what it was found by, infinity where it was not.

    The rarest of its landmarks that is shared counts, as often as there were others to choose from.
    """
    total = np.bincount(peak_of, weights=chance, minlength=peaks).astype(np.float64)
    rarest = np.full(peaks, np.inf)
    np.minimum.at(rarest, peak_of[shared], chance[shared])
    return total, rarest * np.bincount(peak_of, minlength=peaks)


def _shared(hits: _Hits, reference: Fingerprint, offset: int) -> NDArray[np.bool_]:
    """Which of the query's landmarks the reference has at that shift, or one frame beside it."""
    frames = hits.frames + offset
    rows = slice(*np.searchsorted(reference.frames, [frames[0] - SLACK, frames[-1] + SLACK + 1]))
    there = np.sort(reference.frames[rows].astype(np.int64) << 32 | reference.hashes[rows].astype(np.int64))
    shared = np.zeros(len(frames), dtype=bool)
    for slack in range(-SLACK, SLACK + 1):
        wanted = frames + slack << 32 | hits.hashes
        place = np.searchsorted(there, wanted)
        shared |= (place < len(there)) & (there[np.minimum(place, len(there) - 1)] == wanted)
    return shared


def _best_stretch(ratios: NDArray[np.float64]) -> tuple[float, int, int]:
    """The stretch of trials with the largest sum -> the sum, its first and last trial."""
    sums = np.concatenate([[0.0], np.cumsum(ratios)])
    gains = sums[1:] - np.minimum.accumulate(sums[:-1])
    last = int(gains.argmax())
    return float(gains[last]), int(sums[: last + 1].argmin()), last
