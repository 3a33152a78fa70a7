"""Which encoders made a cached latent: known by what they do, not by where they came from.

A family's parts are not the trainer's business, so their identity is their answer to fixed audio and a fixed prompt.
Answers are compared with a tolerance, since another machine or thread count changes the last bits and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import Tensor

from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.seeding import derived_generator
from acestep.families.base import Family

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-3
_PROBE_S = 1.0
_PROBE_PROMPT = "acoustic guitar, brushed drums, 92 bpm, D minor"
_PROBE_LYRICS = "[verse]\nHere is a line to measure by"


@dataclass(frozen=True)
class EncoderIds:
    """Short names of the autoencoder and of the text encoder with its lyric tokenizer."""

    audio: str
    text: str


def identify_encoders(family: Family, cache: LatentCache) -> EncoderIds:
    """The names under which this cache knows the family's encoders; new ones are entered."""
    samples = int(_PROBE_S * family.sample_rate)
    noise = 0.2 * torch.randn(1, 2, samples, generator=derived_generator("encoder probe"))
    conditioning = family.encode_prompt([_PROBE_PROMPT], [_PROBE_LYRICS])
    return EncoderIds(
        audio=_recognise(cache, "audio", {"answer": family.encode_audio(noise.clamp(-1, 1))}),
        text=_recognise(cache, "text", conditioning.tensors()),
    )


def _recognise(cache: LatentCache, kind: str, answer: dict[str, Tensor]) -> str:
    answer = {name: tensor.detach().cpu().float() for name, tensor in answer.items()}
    folder = cache.root / "encoders" / kind
    for path in sorted(folder.glob("*.safetensors")):
        try:
            if _agree(cache.load(path), answer):
                return path.stem
        except (SafetensorError, OSError) as error:
            logger.warning("%s is damaged (%s) and is left aside", path, error)
    digest = hashlib.sha256()
    for name in sorted(answer):
        digest.update(answer[name].contiguous().numpy().tobytes())
    name = digest.hexdigest()[:16]
    cache.store(folder / f"{name}.safetensors", answer)
    return name


def _agree(stored: dict[str, Tensor], answer: dict[str, Tensor]) -> bool:
    if {name: tensor.shape for name, tensor in stored.items()} != {name: t.shape for name, t in answer.items()}:
        return False
    return all(
        bool((stored[name] - tensor).abs().max() <= _TOLERANCE * tensor.abs().max().clamp(min=1e-6))
        for name, tensor in answer.items()
    )
