"""Whether songs repeat training tracks: the nearest passage of each, against how near unrelated passages come.

Two measures that miss different things. Fingerprints (audio/fingerprint.py) hear the very same notes at the very same
moments, in any mix; latents (latent_search.py) hear a passage that the model made anew from memory. What is chance is
measured on the dataset itself: passages of training tracks as long as the songs, searched for in all other tracks.
Those share style, keys, tempos and instruments, so what a style has in common is no alarm.

Measured with nano's latents on four made styles that nothing here was tuned on, 12 tracks of 40 s each: none of 120
songs of the same style is accused (at most 2.5 % at 95 % confidence). Of 24 copies of 10 s each, all are found exact,
quieter, low-passed at 3 kHz, through mp3 and made anew from noisy latents, and all 24 of 5 s inside another song; of 24
that lie 6 dB under another song one is, and eleven more are called worth hearing, as are 18 % of songs of the style.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from acestep.audio.fingerprint import FINGERPRINT_VERSION, Fingerprint, fingerprint
from acestep.audio.fingerprint_index import FingerprintIndex
from acestep.audio.streaming import Audio, stream_recording
from acestep.datasets.augmentation import Change
from acestep.datasets.latent_cache import CacheWriteError, LatentCache, read_entry, read_frames
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.errors import AudioError, DatasetError, InputError
from acestep.evaluation.chance_level import ChanceLevel, Measure, fisher
from acestep.evaluation.latent_search import HOP_S, WINDOW_S, Scale, Source, Windows, search
from acestep.evaluation.repetition import Memorisation, Nearest, Passage, SongMemory
from acestep.families.base import Family

logger = logging.getLogger(__name__)

LEVEL = 0.05
"""The chance with which any song at all of an evaluation is accused of what is none, over all songs and measures."""
EXCERPTS = 48
"""Passages of training tracks that chance is measured on."""
RELATED = 0.8
"""Training tracks whose latents agree this well somewhere are copies of each other, and measure no chance."""
FINGERPRINT = Measure("fingerprint", floor=120.0, sure=300.0, noticed=15.0)
"""Nats. Of 240 songs in the styles of 16 tracks each, made by the program that made the tracks, seven reach 120 and
none 230; copies of 10 s reach 170 to 740, of 5 s 50 to 320, 6 dB under another song 150 at most."""
LATENTS = Measure("latents", floor=0.7, sure=0.8, noticed=0.5, straightened=fisher, bent=math.tanh)
"""Correlations. Such songs reach 0.63; copies 0.95, through mp3 0.92, under a low-pass at 3 kHz 0.78."""
SAMPLE_RATE = 44100

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Song:
    """What is kept of a song: its landmarks, and its latents (8, 16, frames) where they are known; 60 kB for 10 s."""

    name: str
    duration_s: float
    landmarks: Fingerprint
    latents: Tensor | None


def describe_song(
    name: str, audio: Audio, sample_rate: int, *, latents: Tensor | None = None, family: Family | None = None
) -> Song:
    """What `find_memorised` needs of a song; its audio need not be kept.

    audio: (channels, samples); latents: (8, 16, frames), where the pipeline gave them; else `family` makes them of the
    audio, which must be at its rate; with neither only fingerprints are compared. InputError for NaN or infinity.
    """
    try:
        landmarks = fingerprint(audio, sample_rate)
    except InputError as error:
        raise InputError(f"song {name}: {error}") from error
    if latents is None and family is not None and audio.shape[1]:
        stereo = torch.tensor(audio, dtype=torch.float32).expand(2, -1)
        with torch.no_grad():
            latents = family.encode_audio(stereo.unsqueeze(0).to(family.device))[0]
    if latents is not None:
        latents = latents.detach().float().cpu()
        if not latents.isfinite().all():
            raise InputError(f"song {name}: its latents hold NaN or infinity; the model that made them is broken")
    return Song(name, audio.shape[1] / sample_rate, landmarks, latents)


def find_memorised(
    songs: Sequence[Song],
    dataset: LatentDataset,
    *,
    latent_rate: float,
    recordings: Path | None = None,
    unrelated: Sequence[Song] = (),
    cache: LatentCache | None = None,
    progress: Progress | None = None,
) -> Memorisation:
    """The nearest training passage of each song, and whether it is nearer than chance.

    latent_rate: the family's; recordings: the dataset's folder, without which only latents are compared; unrelated:
    songs that cannot know the tracks, such as the base's own, which measure chance too; cache: keeps fingerprints of
    tracks, so that the next search decodes none. `progress` hears (tracks looked at, tracks). Tracks are read one at a
    time. InputError for no songs or tracks, or songs that share a name.
    """
    if not songs or not dataset.tracks:
        raise InputError(
            f"{len(songs)} songs and {len(dataset.tracks)} tracks were given; expected one of each at least"
        )
    if len({song.name for song in songs}) < len(songs):
        raise InputError("two songs have the same name; give each its own")
    tail = LEVEL / (2 * len(songs))
    excerpts = _choose_excerpts(dataset.tracks, songs, latent_rate)
    told = _Told(progress, len(dataset.tracks) * (1 if recordings is None else 2))
    by_latents = _compare_latents(songs, unrelated, excerpts, dataset.tracks, latent_rate, tail, told)
    prints = None if recordings is None else partial(_track_landmarks, folder=recordings / "audio", cache=cache)
    by_landmarks = _compare_landmarks(songs, unrelated, excerpts, dataset.tracks, prints, by_latents, tail, told)
    found = [
        SongMemory(song.name, tuple(side.nearest[row] for side in (by_landmarks, by_latents) if row in side.nearest))
        for row, song in enumerate(songs)
    ]
    return Memorisation(
        songs=tuple(found),
        levels=tuple(side.level for side in (by_landmarks, by_latents) if side.level is not None),
        tracks=len(dataset.tracks),
        related=tuple(sorted({(dataset.tracks[a].name, dataset.tracks[b].name) for a, b in by_latents.related})),
        left_out=(*by_landmarks.left_out, *by_latents.left_out),
    )


@dataclass(frozen=True)
class _Excerpt:
    """A passage of a training track, searched for in the others."""

    track: int
    start_s: float
    duration_s: float


@dataclass(frozen=True)
class _Side:
    """What one measure found. nearest: by the song's row."""

    nearest: dict[int, Nearest]
    level: ChanceLevel | None
    left_out: tuple[tuple[str, str], ...]
    related: frozenset[tuple[int, int]] = frozenset()


class _Told:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def step(self) -> None:
        self.done = min(self.done + 1, self.total)
        if self.progress is not None:
            self.progress(self.done, self.total)


def _choose_excerpts(tracks: Sequence[CachedTrack], songs: Sequence[Song], latent_rate: float) -> list[_Excerpt]:
    """As long as the songs, in turn over tracks, evenly spread in each; none where there is no other track."""
    if len({track.content for track in tracks}) < 2:
        return []
    chosen: list[_Excerpt] = []
    # With many tracks every nth is taken, with few each several times.
    for number in range(EXCERPTS):
        track = number * max(len(tracks) // EXCERPTS, 1) % len(tracks)
        length_s = tracks[track].frames / latent_rate
        duration_s = min(songs[number % len(songs)].duration_s, length_s)
        turn, turns = number // len(tracks), -(-EXCERPTS // len(tracks))
        start_s = (length_s - duration_s) * (turn + 0.5) / turns
        # A short track gives the same passage again and again, which would count for more than it tells.
        if not any(e.track == track and abs(e.start_s - start_s) < min(duration_s, WINDOW_S) / 2 for e in chosen):
            chosen.append(_Excerpt(track, start_s, duration_s))
    return chosen


def _compare_latents(
    songs: Sequence[Song],
    unrelated: Sequence[Song],
    excerpts: Sequence[_Excerpt],
    tracks: Sequence[CachedTrack],
    latent_rate: float,
    tail: float,
    told: _Told,
) -> _Side:
    size, hop = round(WINDOW_S * latent_rate), round(HOP_S * latent_rate)
    sources = [(number, change, source) for number, track in enumerate(tracks) for change, source in _versions(track)]
    scale = Scale.of([source for _, change, source in sources if change == Change()])
    heard = [song.latents for song in (*songs, *unrelated)]
    cut = [_read_excerpt(tracks[each.track], each, latent_rate) for each in excerpts]
    queries = [torch.zeros(128, 0) if latents is None else scale.apply(latents) for latents in [*heard, *cut]]
    windows = Windows.of(queries, size, hop)
    best = _Best(windows, len(queries), len(tracks))
    for rows, number, found in search(windows, [source for *_, source in sources], scale):
        best.take(rows, number, sources[number][0], found.similarity.numpy(), found.frames.numpy())
        if number + 1 == len(sources) or sources[number + 1][0] != sources[number][0]:
            told.step()
    first = len(songs) + len(unrelated)
    related, values = _chance_of(best.by_track[first:], excerpts, tracks)
    values += [float(row.max()) for row in best.by_track[len(songs) : first] if row.max() > -1]
    judged = {row for row in range(len(songs)) if best.by_track[row].max() > -1}
    left_out = [
        (f"latents of {song.name}", _why_no_latents(song)) for row, song in enumerate(songs) if row not in judged
    ]
    if not judged:
        return _Side({}, None, (("memorisation by latents", "no song has latents to compare"),), frozenset(related))
    level = ChanceLevel.fit(LATENTS, values, tail=tail, source=_said(excerpts, unrelated))
    nearest = {}
    for row in judged:
        value, number, song_frames, track_frame = best.passage(row, size)
        track, change, _ = sources[number]
        start, end = (frame / latent_rate for frame in song_frames)
        at = track_frame / latent_rate
        passage = Passage(
            tracks[track].name,
            start,
            end,
            at * change.tempo,
            (at + end - start) * change.tempo,
            "" if change == Change() else str(change),
        )
        nearest[row] = Nearest(level, value, passage)
    return _Side(nearest, level, tuple(left_out), frozenset(related))


class _Best:
    """The best of each window over all sources, and of each query in each track."""

    def __init__(self, windows: Windows, queries: int, tracks: int) -> None:
        self.owners, self.starts = windows.owners.numpy(), windows.starts.numpy()
        self.similarity = np.full(len(windows), -1.0, np.float32)
        self.source = np.zeros(len(windows), np.int64)
        self.frame = np.zeros(len(windows), np.int64)
        self.by_track = np.full((queries, tracks), -1.0, np.float32)

    def take(
        self, rows: slice, source: int, track: int, similarity: NDArray[np.float32], frames: NDArray[np.int64]
    ) -> None:
        better = similarity > self.similarity[rows]
        for kept, new in ((self.similarity, similarity), (self.frame, frames), (self.source, source)):
            kept[rows] = np.where(better, new, kept[rows])
        np.maximum.at(self.by_track[:, track], self.owners[rows], similarity)

    def passage(self, query: int, size: int) -> tuple[float, int, tuple[int, int], int]:
        """-> similarity, source, the song's frames from and to, the track's first frame. Windows beside the best that
        agree with it on place and nearly on similarity belong to it."""
        (rows,) = np.nonzero(self.owners == query)
        top = int(self.similarity[rows].argmax())
        offsets = self.frame[rows] - self.starts[rows]
        near = (self.source[rows] == self.source[rows[top]]) & (np.abs(offsets - offsets[top]) <= 1)
        near &= self.similarity[rows] >= 0.8 * self.similarity[rows[top]]
        first = last = top
        while first > 0 and near[first - 1]:
            first -= 1
        while last + 1 < len(rows) and near[last + 1]:
            last += 1
        start, end = int(self.starts[rows[first]]), int(self.starts[rows[last]]) + size
        return float(self.similarity[rows[top]]), int(self.source[rows[top]]), (start, end), start + int(offsets[top])


def _chance_of(
    by_track: NDArray[np.float32], excerpts: Sequence[_Excerpt], tracks: Sequence[CachedTrack]
) -> tuple[set[tuple[int, int]], list[float]]:
    """Pairs of tracks that are copies, and each excerpt's highest similarity to a track that is not its own or a
    copy of it."""
    copies: set[tuple[int, int]] = set()
    for row, excerpt in zip(by_track, excerpts, strict=True):
        for other in np.nonzero(row >= RELATED)[0]:
            if other != excerpt.track:
                copies.add((min(excerpt.track, int(other)), max(excerpt.track, int(other))))
    values = []
    for row, excerpt in zip(by_track, excerpts, strict=True):
        apart = np.array([_are_apart(excerpt.track, other, tracks, copies) for other in range(len(tracks))])
        if apart.any() and (value := float(row[apart].max())) > -1:
            values.append(value)
    return copies, values


def _are_apart(one: int, other: int, tracks: Sequence[CachedTrack], copies: set[tuple[int, int]]) -> bool:
    same = one == other or tracks[one].content == tracks[other].content
    return not same and (min(one, other), max(one, other)) not in copies


def _compare_landmarks(
    songs: Sequence[Song],
    unrelated: Sequence[Song],
    excerpts: Sequence[_Excerpt],
    tracks: Sequence[CachedTrack],
    prints: Callable[[CachedTrack], Fingerprint] | None,
    latents: _Side,
    tail: float,
    told: _Told,
) -> _Side:
    if prints is None:
        return _Side({}, None, (("memorisation by fingerprint", "it needs the recordings of the training tracks"),))
    index, left_out = FingerprintIndex(), []
    for number, track in enumerate(tracks):
        try:
            index.add(number, prints(track))
        except AudioError as error:
            left_out.append((f"fingerprint of {track.name}", str(error)))
        told.step()
    if not len(index):
        return _Side({}, None, (("memorisation by fingerprint", "no recording of the tracks can be read"),))
    values = []
    for excerpt in excerpts:
        if excerpt.track not in index:
            continue
        near = [n for n in range(len(tracks)) if not _are_apart(excerpt.track, n, tracks, set(latents.related))]
        cut = index[excerpt.track].between(excerpt.start_s, excerpt.start_s + excerpt.duration_s)
        values += [match.score for match in index.search(cut, without=near)]
    values += [match.score for song in unrelated for match in index.search(song.landmarks)]
    level = ChanceLevel.fit(FINGERPRINT, values, tail=tail, source=_said(excerpts, unrelated))
    nearest = {}
    for row, song in enumerate(songs):
        for match in index.search(song.landmarks):
            passage = Passage(
                tracks[int(str(match.reference))].name,
                match.start_s,
                min(match.end_s, song.duration_s),
                max(match.reference_start_s, 0.0),
                match.reference_end_s,
            )
            # Chords and bars that two pieces have in common reach high scores, but no likeness of latents.
            confirmed = row not in latents.nearest or latents.nearest[row].value > LATENTS.noticed
            nearest[row] = Nearest(level, match.score, passage, confirmed)
    return _Side(nearest, level, tuple(left_out))


def _track_landmarks(track: CachedTrack, *, folder: Path, cache: LatentCache | None) -> Fingerprint:
    """From the cache, or from the recording and then into it; AudioError where that cannot be read."""
    entry = None
    if cache is not None:
        entry = cache.path("fingerprints", content=track.content, version=FINGERPRINT_VERSION)
    if entry is not None and entry.exists():
        try:
            kept = read_entry(entry)
            hashes, frames = (kept[name].numpy() for name in ("hashes", "frames"))
            return Fingerprint(hashes.view(np.uint32), frames, float(kept["duration_s"]))
        except (OSError, SafetensorError, KeyError) as error:
            logger.warning("%s is damaged (%s) and is made again", entry, error)
    made = fingerprint(stream_recording(folder / track.name, SAMPLE_RATE), SAMPLE_RATE)
    if cache is not None and entry is not None:
        parts = {"hashes": made.hashes.view(np.int32), "frames": made.frames, "duration_s": np.array(made.duration_s)}
        try:
            cache.store(entry, {name: torch.from_numpy(part) for name, part in parts.items()})
        except CacheWriteError as error:
            logger.warning("the fingerprint of %s is not kept: %s", track.name, error)
    return made


def _versions(track: CachedTrack) -> list[tuple[Change, Source]]:
    """A track as it was recorded, and as it was changed for training: what was heard can be remembered."""
    versions = [(Change(), track.latents, track.frames), *((v.change, v.latents, v.frames) for v in track.variants)]
    return [(change, partial(_read, track.name, path, 0, frames)) for change, path, frames in versions]


def _read_excerpt(track: CachedTrack, excerpt: _Excerpt, latent_rate: float) -> Tensor:
    frames = min(round(excerpt.duration_s * latent_rate), track.frames)
    start = min(round(excerpt.start_s * latent_rate), track.frames - frames)
    return _read(track.name, track.latents, start, frames)


def _read(name: str, path: Path, start: int, frames: int) -> Tensor:
    try:
        return read_frames(path, "latents", start, frames)
    except (OSError, SafetensorError) as error:
        raise DatasetError(
            f"{name} has gone from the cache or is damaged ({error}); prepare the dataset again"
        ) from error


def _why_no_latents(song: Song) -> str:
    if song.latents is None:
        return "the song has none, and no model was given to make them"
    if song.duration_s < WINDOW_S + 0.2:
        return f"it is {song.duration_s:.1f} s long; {WINDOW_S:g} s are compared at once"
    return "the song or every track is silent or still, or too short"


def _said(excerpts: Sequence[_Excerpt], unrelated: Sequence[Song]) -> str:
    return "passages of other training tracks" + (" and of unrelated songs" if unrelated else "")
