"""From a dataset folder to training material: everything that no step changes is computed once and cached."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from acestep.datasets.encoding import CONTEXT_S, WINDOW_S, encode_recording
from acestep.datasets.folder import Problem, Track, read_dataset_folder, require_usable
from acestep.datasets.latent_cache import LatentCache, choose_cache_folder
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.errors import AudioError, InputError
from acestep.families.base import EncoderFingerprints, Family

logger = logging.getLogger(__name__)

_CACHE_VERSION = 1


@dataclass(frozen=True)
class PreparationProgress:
    """After each track: how far along, and how long it will take by the audio that is left; None before it is known."""

    track: str
    tracks_done: int
    tracks: int
    encoded_s: float
    """Seconds of audio encoded in this run; cached tracks count for nothing."""
    remaining_s: float | None


OnProgress = Callable[[PreparationProgress], None]


def prepare_dataset(
    root: str | Path,
    family: Family,
    *,
    max_duration_s: float = 60.0,
    seed: int = 0,
    skip_bad: bool = False,
    cache_dir: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> LatentDataset:
    """Check the folder, encode what the cache does not hold yet, and return the material for training.

    cache_dir: None takes `.cache` in the folder. Raises DatasetError naming every track that cannot be used; skip_bad
    goes on without them.
    """
    folder = read_dataset_folder(root, skip_bad=skip_bad)
    cache = LatentCache(Path(cache_dir) if cache_dir is not None else choose_cache_folder(folder.root))
    encoders = family.encoder_fingerprints()
    clock = _Clock(folder.tracks)
    ready: list[CachedTrack] = []
    problems = list(folder.problems)
    for track in folder.tracks:
        try:
            cached, encoded = _prepare(track, family, cache, encoders)
            ready.append(cached)
        except (AudioError, InputError) as error:
            encoded = False
            problems.append(Problem(track.name, str(error)))
        progress = clock.after(track, encoded=encoded)
        if on_progress is not None:
            on_progress(progress)
    require_usable(folder.root, problems, total=len(folder.tracks) + len(folder.problems), skip_bad=skip_bad)
    skipped = [f"{problem.track} is left out: {problem.reason}" for problem in problems]
    for warning in (*folder.warnings, *skipped):
        logger.warning("%s: %s", folder.root, warning)
    return LatentDataset(
        tracks=tuple(ready),
        crop_frames=family.latent_frames(max_duration_s),
        seed=seed,
        warnings=(*folder.warnings, *skipped),
    )


@torch.no_grad()
def _prepare(
    track: Track, family: Family, cache: LatentCache, encoders: EncoderFingerprints
) -> tuple[CachedTrack, bool]:
    """(the track in the cache, whether its audio had to be encoded)"""
    content = _sha256(track.path)
    prompt, lyrics = track.annotation.text_prompt(), track.annotation.lyrics
    latents = cache.path(
        "latents",
        version=_CACHE_VERSION,
        content=content,
        encoder=encoders.audio,
        sample_rate=family.sample_rate,
        window_s=WINDOW_S,
        context_s=CONTEXT_S,
    )
    conditioning = cache.path(
        "conditioning", version=_CACHE_VERSION, encoder=encoders.text, prompt=prompt, lyrics=lyrics
    )
    if cache.shapes(conditioning) is None:
        cache.store(conditioning, family.encode_prompt([prompt], [lyrics]).tensors())
    shapes = cache.shapes(latents)
    encoded = shapes is None
    if shapes is None:
        values = encode_recording(family, track.path)
        cache.store(latents, {"latents": values})
        shapes = {"latents": tuple(values.shape)}
    return CachedTrack(track.name, content, prompt, shapes["latents"][-1], latents, conditioning), encoded


class _Clock:
    """Time per second of audio so far, and the audio that may still have to be encoded."""

    def __init__(self, tracks: tuple[Track, ...]) -> None:
        self.tracks = len(tracks)
        self.left_s = sum(track.duration_s for track in tracks)
        self.done = 0
        self.encoded_s = 0.0
        self.spent_s = 0.0
        self.last = time.monotonic()

    def after(self, track: Track, *, encoded: bool) -> PreparationProgress:
        now = time.monotonic()
        if encoded:
            self.encoded_s += track.duration_s
            self.spent_s += now - self.last
        self.last = now
        self.done += 1
        self.left_s -= track.duration_s
        remaining = self.left_s * self.spent_s / self.encoded_s if self.encoded_s else None
        if self.done == self.tracks:
            remaining = 0.0
        return PreparationProgress(track.name, self.done, self.tracks, self.encoded_s, remaining)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"it cannot be read: {error.strerror or error}") from error
