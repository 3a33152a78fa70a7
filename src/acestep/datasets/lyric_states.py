"""Lyric states computed once: where nothing of the lyric encoder is trained, no step needs to run it again.

A song's states take 2 kB a lyric token in bfloat16 at v1's full size, on disk and not in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch

from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.errors import DatasetError
from acestep.families.base import Conditioning, Family
from acestep.models.quantization import quantization_of

_CACHE_VERSION = 1


def needs_lyric_encoder(family: Family, trained_modules: Sequence[str]) -> bool:
    """Whether lyric states change in training, so that each step must compute them: an adapter sits on what makes
    them, or the family has none."""
    if not family.lyric_modules:
        return True
    return any(f"{name}.".startswith(f"{lyrics}.") for name in trained_modules for lyrics in family.lyric_modules)


@torch.no_grad()
def with_lyric_states(
    dataset: LatentDataset, family: Family, trained_modules: Sequence[str], cache: LatentCache
) -> LatentDataset:
    """The dataset with the lyric states of every track in the cache; the dataset itself where training changes them.

    trained_modules: names of the network's modules that are trained. Call it before anything is attached to the network
    or while what is attached leaves the lyric encoder alone. States have the base's own precision, as the fingerprint
    and the dtype in their key say. Raises DatasetError where the cache cannot be read or written.
    """
    if needs_lyric_encoder(family, trained_modules):
        return dataset
    base = family.fingerprint()
    indices = range(len(dataset))
    return replace(dataset, tracks=tuple(_with_states(dataset, index, family, base, cache) for index in indices))


def _with_states(dataset: LatentDataset, index: int, family: Family, base: str, cache: LatentCache) -> CachedTrack:
    track = dataset.tracks[index]
    conditioning = dataset.example(index, 1).conditioning
    path = cache.path(
        "lyrics", version=_CACHE_VERSION, base=base, dtype=_precision(family), lyrics=_fingerprint(conditioning)
    )
    try:
        if cache.shapes(path) is None:
            cache.store(path, {"lyric_states": family.encode_lyrics(conditioning.to(family.device))})
    except OSError as error:
        raise DatasetError(f"the lyric states of {track.name} cannot be kept in {cache.root}: {error}") from error
    return replace(track, lyric_states=path)


def _precision(family: Family) -> str:
    """Of what makes the states: a quantised base has the fingerprint of its original, and states of its own."""
    kind = quantization_of(family.network)
    return f"{family.dtype} {kind}" if kind is not None else str(family.dtype)


def _fingerprint(conditioning: Conditioning) -> str:
    digest = hashlib.sha256()
    for tensor in (conditioning.lyric_ids, conditioning.lyric_mask):
        digest.update(f"{list(tensor.shape)}".encode())
        digest.update(tensor.long().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
