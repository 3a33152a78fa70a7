"""What the alignment losses compare with: encoders' states of every recording, computed once and read by window.

They are large: MERT's take 9 MB a minute of music, mHuBERT's 4.6 MB, in half precision on disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from acestep.datasets.augmentation import Change
from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset, StoredStates
from acestep.datasets.representation_encoder import RepresentationEncoder
from acestep.errors import AudioError, DatasetError
from acestep.families.base import Family

_CACHE_VERSION = 1


def load_encoders(family: Family, *, folders: Mapping[str, Path] | None = None) -> tuple[RepresentationEncoder, ...]:
    """What the base's alignment losses need: its heads, read into the family, and one encoder a head.

    folders: where the weights of a source lie, by its name; those that are not named are looked for in the hub's cache.
    Raises MissingWeightsError where anything of it is not here: then train without these losses, and say why.
    CheckpointError where weights are here and wrong.
    """
    found = folders or {}
    # The encoders first: heads take memory, and most who have no encoders do not want them.
    encoders = tuple(
        RepresentationEncoder.load(source, folder=found.get(source.name), device=family.device)
        for source in family.representation_sources
    )
    family.load_alignment_heads()
    return encoders


def with_targets(
    dataset: LatentDataset,
    recordings: Mapping[str, Path],
    encoders: Sequence[RepresentationEncoder],
    cache: LatentCache,
    *,
    latent_rate: float,
) -> LatentDataset:
    """The dataset whose examples carry what each encoder hears in their window, in the encoders' order.

    recordings: the file of every track, by its content; latent_rate: latent frames a second. DatasetError names a
    recording that cannot be read or a cache that cannot be written.
    """
    prints = [encoder.fingerprint() for encoder in encoders]
    rates = [encoder.frame_rate / latent_rate for encoder in encoders]
    tracks: list[CachedTrack] = []
    for track in dataset.tracks:
        path = recordings.get(track.content)
        if path is None:
            raise DatasetError(f"{track.name} has no recording to make representation targets of; prepare again")
        try:
            heard = [
                tuple(
                    StoredStates(_stored(track.content, change, path, encoder, print_, cache), rate)
                    for encoder, print_, rate in zip(encoders, prints, rates, strict=True)
                )
                for change in (Change(), *(variant.change for variant in track.variants))
            ]
        except (AudioError, OSError) as error:
            raise DatasetError(f"no representation targets for {track.name}: {error}") from error
        variants = (
            replace(variant, targets=targets) for variant, targets in zip(track.variants, heard[1:], strict=True)
        )
        tracks.append(replace(track, targets=heard[0], variants=tuple(variants)))
    return replace(dataset, tracks=tuple(tracks))


def _stored(
    content: str, change: Change, path: Path, encoder: RepresentationEncoder, print_: str, cache: LatentCache
) -> Path:
    source = encoder.source
    entry = cache.path(
        "representations",
        version=_CACHE_VERSION,
        content=content,
        encoder=print_,
        sample_rate=source.sample_rate,
        chunk_s=source.chunk_s,
        **change.origin(),
    )
    if cache.shapes(entry) is None:
        blocks = map(torch.from_numpy, change.read(path, source.sample_rate))
        cache.store(entry, {"states": stored_form(encoder.encode(mono(blocks)))})
    return entry


def mono(blocks: Iterable[Tensor]) -> Tensor:
    """(channels, samples) blocks -> (samples,), the mean of the channels."""
    parts = [block.mean(dim=0) for block in blocks]
    return torch.cat(parts) if parts else torch.zeros(0)


def stored_form(states: Tensor) -> Tensor:
    """Directions, which are all that the loss sees, scaled so that no part of them is too small for half precision."""
    directions: Tensor = torch.nn.functional.normalize(states, dim=-1)
    return (directions * math.sqrt(states.shape[-1])).half()
