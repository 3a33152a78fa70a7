"""All randomness of a song, in one place and in a fixed order of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

LATENT_SHAPE = (8, 16)


class NoiseSource(Protocol):
    """Standard normal latents, (batch, 8, 16, frames) float32 on the CPU."""

    def first(self, frames: int) -> Tensor:
        """The song's own noise."""

    def retake(self, frames: int) -> Tensor:
        """The noise of a variation; each call draws anew."""

    def fresh(self, frames: int) -> Tensor:
        """More of the song's own noise, for samplers that add some at each step."""


class SeededNoise:
    """Noise from seeds, one a song: equal on every device, since it is drawn on the CPU."""

    def __init__(self, seeds: Sequence[int], retake_seeds: Sequence[int] | None = None) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        retakes = retake_seeds if retake_seeds is not None else [seed + 1 for seed in seeds]
        self._retake_generators = [torch.Generator().manual_seed(seed) for seed in retakes]

    def first(self, frames: int) -> Tensor:
        return _draw(self._generators, frames)

    def retake(self, frames: int) -> Tensor:
        return _draw(self._retake_generators, frames)

    def fresh(self, frames: int) -> Tensor:
        return _draw(self._generators, frames)


def _draw(generators: Sequence[torch.Generator], frames: int) -> Tensor:
    return torch.cat([torch.randn(1, *LATENT_SHAPE, frames, generator=generator) for generator in generators])
