"""From a dataset folder to training material: everything that no step changes is computed once and cached.

The next recordings are read and changed in background threads while the present one is encoded; a few blocks of each
are held, so memory grows neither with the number of tracks nor with their length.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.datasets.augmentation import Augmentation, keeps_pitch
from acestep.datasets.encoding import encode_blocks
from acestep.datasets.folder import Problem, Track, read_dataset_folder, require_usable
from acestep.datasets.latent_cache import CacheWriteError, LatentCache, choose_cache_folder
from acestep.datasets.latent_dataset import CachedTrack, CachedVariant, LatentDataset
from acestep.datasets.prefetching import prefetch
from acestep.datasets.versions import Job, Unreadable, Version, VersionFinder
from acestep.errors import AudioError, CheckpointError, DatasetError, InputError
from acestep.families.base import Family
from acestep.wording import size_text

_BYTES_A_FRAME = 8 * 16 * 4


@dataclass(frozen=True)
class PreparationProgress:
    """After each version of a track, which is the recording or a changed copy of it: how far along, and how long it
    will take by the audio that is left; None before it is known.
    """

    track: str
    tracks_done: int
    """All of their versions."""
    tracks: int
    encoded_s: float
    """Seconds of audio encoded in this run; what was cached counts for nothing."""
    remaining_s: float | None
    """As if nothing of what is left were cached, so it can only be sooner."""
    versions_done: int = 0
    versions: int = 0


OnProgress = Callable[[PreparationProgress], None]


def prepare_dataset(
    root: str | Path,
    family: Family,
    *,
    max_duration_s: float = 60.0,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    skip_bad: bool = False,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> LatentDataset:
    """Check the folder, encode what the cache does not hold yet, and return the material for training.

    augmentation: None makes no changed copies. cache_dir: None takes `.cache` in the folder. Several runs may prepare
    one folder at once, and share the work. Raises DatasetError naming every track that cannot be used, which skip_bad
    goes on without, and for a cache that cannot be written, saying how much room it needs;
    CheckpointError where an encoder of the base makes no numbers.
    """
    folder = read_dataset_folder(root, skip_bad=skip_bad)
    cache = LatentCache(Path(cache_dir) if cache_dir is not None else choose_cache_folder(folder.root))
    cache.remove_leftovers()
    augmentation = augmentation or Augmentation(variants=0)
    preparation = _Preparation(folder.tracks, family, cache, augmentation)
    preparation.run(on_progress)
    problems = [*folder.problems, *preparation.problems.values()]
    require_usable(folder.root, problems, total=len(folder.tracks) + len(folder.problems), skip_bad=skip_bad)
    skipped = [f"{problem.track} is left out: {problem.reason}" for problem in problems]
    return LatentDataset(
        tracks=preparation.tracks(),
        crop_frames=family.latent_frames(max_duration_s),
        seed=seed,
        warnings=(*folder.warnings, *_warnings(folder.tracks, augmentation), *skipped),
    )


class _Preparation:
    """One walk over a folder's tracks; what becomes of them is kept in `done` and `problems`, by track."""

    def __init__(self, tracks: Sequence[Track], family: Family, cache: LatentCache, augmentation: Augmentation) -> None:
        self.family, self.cache = family, cache
        self.done: dict[str, dict[int, tuple[Version, int]]] = {track.name: {} for track in tracks}
        """(a version, its frames) by number."""
        self.problems: dict[str, Problem] = {}
        self._tracks = tracks
        self._stopped = threading.Event()
        self._finder = VersionFinder(
            cache, family.encoder_fingerprints(), family.sample_rate, augmentation, self._stopped
        )
        self._clock = _Clock(tracks, augmentation)

    def run(self, on_progress: OnProgress | None) -> None:
        try:
            with prefetch(self._finder.find_jobs(self._tracks), depth=1) as jobs:
                try:
                    for job in jobs:
                        progress = self._take(job)
                        if on_progress is not None:
                            on_progress(progress)
                finally:
                    self._stopped.set()
        except CacheWriteError as error:
            raise self._no_room(error) from error

    def tracks(self) -> tuple[CachedTrack, ...]:
        """In the folder's order, those with problems left out."""
        return tuple(_cached(self.done[track.name]) for track in self._tracks if track.name not in self.problems)

    def _take(self, job: Job | Unreadable) -> PreparationProgress:
        if isinstance(job, Unreadable):
            self.problems[job.track.name] = Problem(job.track.name, job.reason)
            return self._clock.after_track(job.track)
        version = job.version
        name = version.track.name
        try:
            if name not in self.problems:
                self.done[name][version.number] = (version, self._prepare(job))
        except (AudioError, InputError) as error:
            self.problems[name] = Problem(name, str(error))
        finally:
            job.close()
        return self._clock.after_version(version, encoded=job.frames is None and name not in self.problems)

    @torch.no_grad()
    def _prepare(self, job: Job) -> int:
        """Latents and conditioning of a version into the cache -> its frames."""
        version = job.version
        if "text_states" not in (self.cache.shapes(version.conditioning) or {}):
            lyrics = version.track.annotation.lyrics
            conditioning = self.family.encode_prompt([version.prompt], [lyrics]).tensors()
            _require_finite(conditioning["text_states"], "text encoder", version)
            self.cache.store(version.conditioning, conditioning)
        if job.audio is None:
            return job.frames or 0
        latents = encode_blocks(self.family, job.audio)
        _require_finite(latents, "autoencoder", version)
        self.cache.store(version.latents, {"latents": latents})
        return latents.shape[-1]

    def _no_room(self, error: CacheWriteError) -> DatasetError:
        needed = self._clock.left_s * self.family.latent_rate * _BYTES_A_FRAME
        there = next(folder for folder in (self.cache.root, *self.cache.root.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        return DatasetError(
            f"the cache {self.cache.root} cannot be written ({error}); what is left needs about"
            f" {size_text(needed)} there, and {size_text(free)} are free. Make room or give another cache_dir, and"
            " start again: what was encoded so far is kept"
        )


class _Clock:
    """Time per second of audio so far, and the audio that may still have to be encoded."""

    def __init__(self, tracks: Sequence[Track], augmentation: Augmentation) -> None:
        # How many copies a track has does not depend on its content, which is not known yet.
        self._open = {
            track.name: 1 + len(augmentation.changes("", track.annotation, track.duration_s)) for track in tracks
        }
        self.tracks, self.versions = len(tracks), sum(self._open.values())
        self.left_s = sum(track.duration_s * self._open[track.name] for track in tracks)
        self.versions_done = 0
        self.encoded_s = self.spent_s = 0.0
        self.last = time.monotonic()

    def after_track(self, track: Track) -> PreparationProgress:
        """After one of which there will be no versions."""
        return self._after(track, self._open[track.name], encoded=False)

    def after_version(self, version: Version, *, encoded: bool) -> PreparationProgress:
        return self._after(version.track, 1, encoded=encoded)

    def _after(self, track: Track, versions: int, *, encoded: bool) -> PreparationProgress:
        now = time.monotonic()
        if encoded:
            self.encoded_s += track.duration_s
            self.spent_s += now - self.last
        self.last = now
        self._open[track.name] -= versions
        self.versions_done += versions
        self.left_s -= track.duration_s * versions
        remaining = self.left_s * self.spent_s / self.encoded_s if self.encoded_s else None
        return PreparationProgress(
            track=track.name,
            tracks_done=sum(left == 0 for left in self._open.values()),
            tracks=self.tracks,
            encoded_s=self.encoded_s,
            remaining_s=0.0 if self.versions_done == self.versions else remaining,
            versions_done=self.versions_done,
            versions=self.versions,
        )


def _require_finite(tensor: Tensor, encoder: str, version: Version) -> None:
    """CheckpointError: what was read is finite, so it is the base's weights that are not."""
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"the base model's {encoder} makes NaN or infinity of {version.track.name}: its weights are damaged; get"
            " its files again"
        )


def _cached(versions: Mapping[int, tuple[Version, int]]) -> CachedTrack:
    recording, frames = versions[0]
    copies = [versions[number] for number in sorted(versions) if number]
    return CachedTrack(
        name=recording.track.name,
        content=recording.content,
        prompt=recording.prompt,
        frames=frames,
        latents=recording.latents,
        conditioning=recording.conditioning,
        variants=tuple(
            CachedVariant(copy.change, copy.prompt, frames, copy.latents, copy.conditioning) for copy, frames in copies
        ),
    )


def _warnings(tracks: Sequence[Track], augmentation: Augmentation) -> list[str]:
    if not augmentation.pitch_shift or not augmentation.variants:
        return []
    kept = [track for track in tracks if keeps_pitch(track.annotation)]
    if not kept:
        return []
    return [
        f"{len(kept)} tracks name a key that cannot be told anew, such as {kept[0].annotation.key!r} of {kept[0].name};"
        " their variants keep the pitch (known are keys like E minor, C# major, Bbm)"
    ]
