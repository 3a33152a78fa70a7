"""Guidance: combine what the model predicts with and without its conditioning.

All predictions are velocities, (batch, 8, 16, frames). "Norm" is over the last two axes, per batch row and channel,
as released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from acestep.diffusion.samplers import Denoiser

GuidanceName = Literal["apg", "cfg", "cfg_zero_star", "double"]

APG_MOMENTUM = -0.75
APG_NORM_LIMIT = 2.5
ZERO_INIT_STEPS = 2


def cfg(conditional: Tensor, null: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)."""
    return null + guidance_scale * (conditional - null)


def cfg_zero_star(conditional: Tensor, null: Tensor, guidance_scale: float, *, step: int | None) -> Tensor:
    """CFG-Zero* (Fan et al. 2025, arXiv:2503.18886): the null prediction rescaled, the first two steps at rest.

    `step` counts from 0; None leaves the zero start out.
    """
    if step is not None and step < ZERO_INIT_STEPS:
        return torch.zeros_like(conditional)
    flat_conditional, flat_null = conditional.flatten(1), null.flatten(1)
    alignment = (flat_conditional * flat_null).sum(1) / (flat_null.square().sum(1) + 1e-8)
    return cfg(conditional, alignment.view(-1, 1, 1, 1) * null, guidance_scale)


def apg(
    conditional: Tensor,
    null: Tensor,
    guidance_scale: float,
    *,
    running: Tensor | None = None,
    momentum: float = APG_MOMENTUM,
    norm_limit: float = APG_NORM_LIMIT,
    eta: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416) -> (velocity, running average for the next
    step).

    `running` is what the previous step returned; None at the first one. `norm_limit` 0 leaves the norm as it is.
    """
    difference = conditional - null
    if running is not None:
        difference = difference + momentum * running
    average = difference
    if norm_limit > 0:
        norm = difference.norm(p=2, dim=(-2, -1), keepdim=True)
        difference = difference * torch.minimum(torch.ones_like(norm), norm_limit / norm)
    parallel, orthogonal = _project(difference, conditional)
    return conditional + (guidance_scale - 1) * (orthogonal + eta * parallel), average


def double_condition(
    conditional: Tensor, text_only: Tensor, null: Tensor, *, text_scale: float, lyric_scale: float
) -> Tensor:
    """Separate weights for the prompt and for the lyrics, as the released pipeline weighs its three predictions."""
    return (1 - text_scale) * null + (text_scale - lyric_scale) * text_only + lyric_scale * conditional


def guidance_scales(
    steps: int,
    guidance_scale: float,
    *,
    interval: float = 0.5,
    decay: float = 0.0,
    min_guidance_scale: float = 3.0,
    calls: int | None = None,
) -> list[float | None]:
    """The scale at each model call; None where only the conditioned prediction is needed.

    Guided are the calls in the middle `interval` of `steps`; `decay` in [0, 1] lowers the scale across them towards
    the minimum.
    Heun makes more calls than steps; the interval is still counted in steps, as released.
    """
    start, end = int(steps * (1 - interval) / 2), int(steps * (interval / 2 + 0.5))
    span = max(end - start - 1, 1)  # the released code divides by zero when one step is guided

    def scale_at(call: int) -> float | None:
        if guidance_scale in (0.0, 1.0) or not start <= call < end:
            return None
        if decay <= 0:
            return guidance_scale
        return guidance_scale - (guidance_scale - min_guidance_scale) * decay * (call - start) / span

    return [scale_at(call) for call in range(calls if calls is not None else steps)]


@dataclass(frozen=True)
class Branches:
    """A model's predictions for one song: `conditional` alone, or (conditional, null[, text_only]) in one go."""

    conditional: Denoiser
    contrasted: Callable[[Tensor, float], tuple[Tensor, ...]]


@dataclass
class GuidedDenoiser:
    """A denoiser that guides by the plan in `scales`, one entry a call; it counts its calls and keeps APG's momentum.

    `call` starts above 0 where a task leaves the first steps out. `text_scale` and `lyric_scale` serve "double" alone.
    """

    branches: Branches
    scales: list[float | None]
    guidance: GuidanceName = "apg"
    text_scale: float = 0.0
    lyric_scale: float = 0.0
    momentum: float = APG_MOMENTUM
    call: int = 0
    _running: Tensor | None = field(default=None, repr=False)

    def __call__(self, latents: Tensor, sigma: float) -> Tensor:
        scale, call = self.scales[self.call], self.call
        self.call += 1
        if scale is None:
            return self.branches.conditional(latents, sigma)
        conditional, null, *rest = self.branches.contrasted(latents, sigma)
        if self.guidance == "double":
            return double_condition(
                conditional, rest[0], null, text_scale=self.text_scale, lyric_scale=self.lyric_scale
            )
        if self.guidance == "cfg":
            return cfg(conditional, null, scale)
        if self.guidance == "cfg_zero_star":
            return cfg_zero_star(conditional, null, scale, step=call)
        velocity, self._running = apg(conditional, null, scale, running=self._running, momentum=self.momentum)
        return velocity


def _project(vector: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """(parallel, orthogonal) parts of `vector` along `onto`.

    In float64, since the parts nearly cancel. MPS has none: float32.
    """
    precise = torch.float32 if vector.device.type == "mps" else torch.float64
    direction = onto.to(precise)
    direction = direction / direction.norm(p=2, dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    parallel = (vector.to(precise) * direction).sum(dim=(-2, -1), keepdim=True) * direction
    return parallel.to(vector.dtype), (vector.to(precise) - parallel).to(vector.dtype)
