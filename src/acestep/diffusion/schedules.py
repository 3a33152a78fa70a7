"""Noise levels that a sampler walks through, as ACE-Step v1 was released (reference: shift 3, applied twice when
sampling).

A schedule is a float32 tensor of sigmas, (steps + 1,), falling from about 1 to exactly 0. The model is fed `1000 *
sigma`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TRAIN_STEPS = 1000
V1_SHIFT = 3.0


def shift_sigmas(sigmas: Tensor, shift: float = V1_SHIFT) -> Tensor:
    """Move noise levels towards 1 (Esser et al. 2024, arXiv:2403.03206, eq. 23); the ends 0 and 1 stay."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def training_sigmas(*, shift: float = V1_SHIFT, sigma_max: float = 1.0) -> Tensor:
    """The 1000 levels that training draws from, highest first -> (1000,) float32."""
    rising = torch.linspace(1 / TRAIN_STEPS, sigma_max, TRAIN_STEPS, dtype=torch.float64)
    return shift_sigmas(rising.flip(0), shift).float()


def sampling_sigmas(steps: int, *, shift: float = V1_SHIFT, sigma_max: float = 1.0) -> Tensor:
    """Levels for `steps` sampler steps -> (steps + 1,) float32, the last one 0.

    The released scheduler shifts its end points once when built and everything again when the steps are set;
    checkpoints
    were tuned by ear with this double shift, so it stays. `sigma_max` below 1 starts from a reference that is noised
    only so far.
    """
    ends = shift_sigmas(torch.tensor([sigma_max, 1 / TRAIN_STEPS], dtype=torch.float64), shift)
    falling = torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)
    return torch.cat([shift_sigmas(falling, shift), torch.zeros(1, dtype=torch.float64)]).float()


def selected_sigmas(chosen: Sequence[int], *, shift: float = V1_SHIFT) -> Tensor:
    """Levels of a long schedule at chosen steps (1-based), as the released optimal-steps option -> (len(chosen) + 1,)
    float32.

    The long schedule has `max(chosen)` steps; what is picked from it is shifted once more, as released.
    """
    long = sampling_sigmas(max(chosen), shift=shift)[:-1].double()
    picked = long[torch.tensor([step - 1 for step in chosen])]
    return torch.cat([shift_sigmas(picked, shift), torch.zeros(1, dtype=torch.float64)]).float()


def reference_level(sigma_max: float, *, shift: float = V1_SHIFT) -> float:
    """How much noise is mixed into a reference before its schedule starts: one shift only, as released."""
    return float(shift_sigmas(torch.tensor(sigma_max, dtype=torch.float64), shift))
