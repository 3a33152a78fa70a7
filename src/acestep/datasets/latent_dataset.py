"""Training material: cached latents and conditioning, cropped to windows that depend on seed, epoch and index alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from acestep.datasets.latent_cache import read_frames
from acestep.datasets.seeding import derive_seed, derived_generator
from acestep.errors import DatasetError
from acestep.families.base import Conditioning

_HASH_RANGE = 1 << 63


@dataclass(frozen=True)
class StoredStates:
    """What an encoder hears in a whole recording, in the cache: `states` (frames, width).

    per_frame: states for each latent frame.
    """

    path: Path
    per_frame: float

    def window(self, start: int, frames: int) -> Tensor:
        """States (at least one, width) of that window of latent frames; the rest of the file is not read."""
        with safe_open(self.path, "pt") as file:
            stored = file.get_slice("states")
            total = stored.get_shape()[0]
            first = min(round(start * self.per_frame), total - 1)
            states: Tensor = stored[first : max(round((start + frames) * self.per_frame), first + 1)]
        return states


@dataclass(frozen=True)
class CachedTrack:
    """A recording as it lies in the cache; `content` is the sha256 of the file it came from.

    lyric_states, targets: what `datasets.lyric_states` and `datasets.representation_targets` computed once.
    """

    name: str
    content: str
    prompt: str
    frames: int
    latents: Path
    conditioning: Path
    lyric_states: Path | None = None
    targets: tuple[StoredStates, ...] = ()


@dataclass(frozen=True)
class Example:
    """latents: (8, 16, frames) float32; conditioning: a batch of one; start: the window's first frame; targets: what
    each encoder hears in the window, (states, width), where they were prepared."""

    latents: Tensor
    conditioning: Conditioning
    track: str
    start: int
    targets: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Batch:
    """latents: (batch, 8, 16, frames) float32, all windows of one length; starts: each window's first frame; targets:
    for each encoder, one (states, width) an example."""

    latents: Tensor
    conditioning: Conditioning
    tracks: tuple[str, ...]
    starts: tuple[int, ...] = ()
    targets: tuple[tuple[Tensor, ...], ...] = ()


@dataclass(frozen=True)
class LatentDataset:
    """Tracks of one folder. Nothing is kept in memory: an item reads its own window, so length costs nothing.

    crop_frames: the longest window; a shorter track is taken whole.
    """

    tracks: tuple[CachedTrack, ...]
    crop_frames: int
    seed: int = 0
    epoch: int = 0
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, self.window(index))

    def at_epoch(self, epoch: int) -> LatentDataset:
        """The same tracks with that epoch's windows."""
        return replace(self, epoch=epoch)

    def window(self, index: int) -> int:
        """Frames of an item's window."""
        return min(self.crop_frames, self.tracks[index].frames)

    def example(self, index: int, frames: int) -> Example:
        """A window of `frames`, at most `window(index)`, placed at random in its track."""
        track = self.tracks[index]
        generator = derived_generator(self.seed, "crop", self.epoch, index)
        start = int(torch.randint(track.frames - frames + 1, (1,), generator=generator))
        try:
            latents = read_frames(track.latents, "latents", start, frames)
            states = load_file(track.lyric_states) if track.lyric_states is not None else {}
            conditioning = Conditioning(**load_file(track.conditioning), **states)
            targets = tuple(stored.window(start, frames) for stored in track.targets)
        except OSError as error:
            raise DatasetError(f"{track.name} has gone from the cache ({error}); prepare the dataset again") from error
        return Example(latents, conditioning, track.name, start, targets)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Windows of one length, the shortest of them: a padded batch would be another function, since the network's
        first norm looks at all frames."""
        frames = min(self.window(index) for index in indices)
        examples = [self.example(index, frames) for index in indices]
        return Batch(
            latents=torch.stack([example.latents for example in examples]),
            conditioning=Conditioning.stack([example.conditioning for example in examples]),
            tracks=tuple(example.track for example in examples),
            starts=tuple(example.start for example in examples),
            targets=tuple(zip(*(example.targets for example in examples), strict=True)),
        )

    def split(self, fraction: float) -> tuple[LatentDataset, LatentDataset | None]:
        """(training, held out), by track; None where nothing can be held out.

        A recording's own content decides its side, so added tracks move no other and a copy follows its original. Where
        chance holds out nothing, the track nearest to it is; with fewer than two different recordings there is no
        choice.
        """
        places = {track.content: derive_seed(track.content, "split") / _HASH_RANGE for track in self.tracks}
        if fraction <= 0 or len(places) < 2:
            return self, None
        nearest = min(places, key=places.__getitem__)
        farthest = max(places, key=places.__getitem__)
        held_out = {content for content, place in places.items() if place < fraction} | {nearest}
        held_out.discard(farthest)
        return self._where(held_out, False), self._where(held_out, True)

    def _where(self, contents: set[str], present: bool) -> LatentDataset:
        return replace(self, tracks=tuple(track for track in self.tracks if (track.content in contents) == present))
