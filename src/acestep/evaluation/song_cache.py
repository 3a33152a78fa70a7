"""Songs of base models, made once: evaluations of other LoRAs with the same prompts and seeds hear the same ones.

A song's place is the sha256 of all that it depends on: the base's weights and codec, prompt, seed and settings,
versions and the kind of machine. It is kept as it left the model, so what is measured on it does not depend on who made
it. Ten seconds take 3.6 MB; beyond a limit the songs that were not asked for the longest make room.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from acestep.conditioning.vocabulary import cache_folder
from acestep.models.quantization import quantization_of
from acestep.pipeline import ACEStepPipeline, GenerationResult

logger = logging.getLogger(__name__)

MAX_BYTES = 4_000_000_000


class SongCache:
    """A folder of songs; None is `songs` in our cache (ACESTEP_CACHE, else the user's cache folder)."""

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = cache_folder() / "songs" if folder is None else folder
        self.max_bytes = max_bytes
        self.hits = 0

    def find(self, key: str) -> GenerationResult | None:
        """The song of that key; None where it is not here or cannot be read, in which case it is forgotten."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                told = json.loads(file.metadata()["song"])
                audio, latents = file.get_tensor("audio"), file.get_tensor("latents")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s); the song is made again", path, error)
            path.unlink(missing_ok=True)
            return None
        self.hits += 1
        return GenerationResult(audio, told["sample_rate"], told["seed"], told["params"], latents, told["recipe"])

    def keep(self, key: str, song: GenerationResult) -> None:
        """Store it whole or not at all; a disk that takes no more is a warning, since nothing is lost but time."""
        told = {"sample_rate": song.sample_rate, "seed": song.seed, "params": song.params, "recipe": song.recipe}
        path = self._path(key)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"audio": song.audio.contiguous(), "latents": song.latents.contiguous()}
            save_file(tensors, partial, metadata={"song": json.dumps(told)})
            partial.replace(path)
            self._make_room()
        except (OSError, SafetensorError) as error:
            logger.warning("a song could not be kept in %s (%s); it will be made again next time", self.folder, error)
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _make_room(self) -> None:
        songs = sorted(
            ((status.st_mtime, status.st_size, path) for path, status in _stored(self.folder)), key=lambda song: song[0]
        )
        size = sum(song[1] for song in songs)
        for _, own, path in songs[:-1]:
            if size <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            size -= own


def base_identity(pipeline: ACEStepPipeline) -> dict[str, Any]:
    """What every song of a base depends on beside what is asked for; to be taken before a LoRA is attached."""
    family = pipeline.family
    return {
        "fingerprint": family.fingerprint(),
        "encoders": asdict(family.encoder_fingerprints()),
        "defaults": asdict(family.sampling),
        "quantization": quantization_of(family.network),
        "dtype": str(family.dtype),
        # Songs of two kinds of device differ in their last bits, and so do those of other numbers of threads.
        "device": torch.cuda.get_device_name(family.device) if family.device.type == "cuda" else family.device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("acesteps", "torch")},
    }


def song_key(identity: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """sha256 of a base's identity and of the pipeline's arguments."""
    text = json.dumps([identity, asked], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def base_song(
    pipeline: ACEStepPipeline, identity: Mapping[str, Any], cache: SongCache | None, **asked: Any
) -> GenerationResult:
    """A song of the base from the cache, or made and kept; all attached LoRAs are at weight 0 already.

    Its recipe names no LoRA and the model as this pipeline calls it, whoever made the song.
    """
    key = song_key(identity, asked)
    song = cache.find(key) if cache is not None else None
    if song is None:
        song = pipeline(**asked)
        song = replace(song, recipe={**song.recipe, "loras": []})
        if cache is not None and bool(torch.isfinite(song.audio).all()):
            cache.keep(key, song)
    return replace(song, recipe={**song.recipe, "model": pipeline.model})


def _stored(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.glob("*/*.safetensors"):
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:  # another evaluation made room at this moment
            continue
    return found
