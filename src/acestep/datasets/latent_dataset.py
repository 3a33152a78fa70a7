"""Training material: cached latents and conditioning, cropped to windows that depend on seed, epoch and index alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from acestep.datasets.augmentation import Change
from acestep.datasets.latent_cache import read_entry, read_frames
from acestep.datasets.seeding import derive_seed, derive_share, derived_generator
from acestep.errors import DatasetError
from acestep.families.base import Conditioning
from acestep.wording import names_text


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
            return states.clone()


@dataclass(frozen=True)
class CachedVariant:
    """A changed copy of a recording as it lies in the cache; its prompt tells the copy's own tempo and key."""

    change: Change
    prompt: str
    frames: int
    latents: Path
    conditioning: Path
    targets: tuple[StoredStates, ...] = ()


@dataclass(frozen=True)
class CachedTrack:
    """A recording as it lies in the cache; `content` is the sha256 of the file it came from.

    lyric_states, targets: what `datasets.lyric_states` and `datasets.representation_targets` computed once; variants
    are sung alike, so they share the lyric states.
    """

    name: str
    content: str
    prompt: str
    frames: int
    latents: Path
    conditioning: Path
    lyric_states: Path | None = None
    targets: tuple[StoredStates, ...] = ()
    variants: tuple[CachedVariant, ...] = ()

    def digest(self) -> str:
        """sha256 of what training sees of the track, wherever the cache lies and whatever the file is called."""
        heard: list[CachedTrack | CachedVariant] = [self, *self.variants]
        # An entry's name is made of all that its content depends on, encoders and changes included.
        entries = [(version.frames, version.latents.stem, version.conditioning.stem) for version in heard]
        return hashlib.sha256(json.dumps([self.content, entries]).encode()).hexdigest()


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

    A track with variants is heard as itself or as one of them, each as likely, drawn from (seed, epoch, index).
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

    def heard(self, index: int) -> CachedTrack | CachedVariant:
        """What this epoch hears of a track: the recording, or a changed copy of it."""
        track = self.tracks[index]
        if not track.variants:
            return track
        drawn = derive_seed(self.seed, "variant", self.epoch, index) % (1 + len(track.variants))
        return track.variants[drawn - 1] if drawn else track

    def window(self, index: int) -> int:
        """Frames of an item's window in this epoch."""
        return min(self.crop_frames, self.heard(index).frames)

    def windows(self) -> tuple[int, ...]:
        """Frames of all items' windows in this epoch; no file is read."""
        return tuple(map(self.window, range(len(self))))

    def example(self, index: int, frames: int) -> Example:
        """A window of `frames`, at most `window(index)`, placed at random in its track."""
        track, heard = self.tracks[index], self.heard(index)
        generator = derived_generator(self.seed, "crop", self.epoch, index)
        start = int(torch.randint(heard.frames - frames + 1, (1,), generator=generator))
        try:
            latents = read_frames(heard.latents, "latents", start, frames)
            states = read_entry(track.lyric_states) if track.lyric_states is not None else {}
            conditioning = Conditioning(**read_entry(heard.conditioning), **states)
            targets = tuple(stored.window(start, frames) for stored in heard.targets)
        except (OSError, SafetensorError) as error:
            raise DatasetError(
                f"{track.name} has gone from the cache or is damaged ({error}); prepare the dataset again"
            ) from error
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
        choice. What is held out has no variants: it is measured as it was recorded.
        """
        places = {track.content: derive_share(track.content, "split") for track in self.tracks}
        if fraction <= 0 or len(places) < 2:
            return self, None
        nearest = min(places, key=places.__getitem__)
        farthest = max(places, key=places.__getitem__)
        held_out = {content for content, place in places.items() if place < fraction} | {nearest}
        held_out.discard(farthest)
        measured = self._where(held_out, True)
        recorded = tuple(replace(track, variants=()) for track in measured.tracks)
        return self._where(held_out, False), replace(measured, tracks=recorded)

    @property
    def sha256(self) -> str:
        """Of all that a step's examples depend on: contents, conditioning and variants in their order, crops, seed."""
        identity = [self.crop_frames, self.seed, [track.digest() for track in self.tracks]]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def track_digests(self) -> dict[str, str]:
        """Each track's own sha256, by its name; two of them are compared by `track_changes`."""
        return {track.name: track.digest() for track in self.tracks}

    def _where(self, contents: set[str], present: bool) -> LatentDataset:
        return replace(self, tracks=tuple(track for track in self.tracks if (track.content in contents) == present))


def track_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """What differs between two `track_digests`, in words: tracks added, removed, and with other content, prompt, lyrics
    or variants; () where nothing does."""
    differing = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    return tuple(f"{what}: {names_text(sorted(names))}" for what, names in differing.items() if names)
