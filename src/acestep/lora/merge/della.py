"""DELLA (Deep et al. 2024, arXiv:2406.11617): as DARE, but large numbers are dropped less often than small ones."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.errors import InputError
from acestep.lora.merge.magnitude import check_density
from acestep.lora.merge.ties import elected_mean


def della(
    deltas: Tensor,
    weights: Tensor,
    draws: Tensor,
    *,
    density: float = 0.5,
    window: float = 0.2,
    scale: float = 1.0,
) -> Tensor:
    """Drop by magnitude, elect signs, average those that agree. deltas, draws: (adapters, out, in) -> (out, in)

    density: the mean share that stays; window: by how much the largest number of a row is likelier to stay than its
    smallest (epsilon); scale: lambda. draws: uniform in [0, 1).
    """
    check_density(density)
    if window < 0 or density - window / 2 <= 0 or density + window / 2 > 1:
        raise InputError(
            f"a window of {window:g} about a density of {density:g} leaves the probabilities from 0 to 1; make it less"
        )
    return scale * elected_mean(drop_by_magnitude(deltas, draws, density, window), weights)


def drop_by_magnitude(deltas: Tensor, draws: Tensor, density: float, window: float) -> Tensor:
    """MagPrune: numbers of a row stay with probabilities that rise evenly with their place among its magnitudes.

    Each that stays is divided by its own probability, so that the mean stays -> as deltas
    """
    inputs = deltas.shape[-1]
    steps = torch.linspace(-0.5, 0.5, inputs) if inputs > 1 else torch.zeros(1)
    chances = (density + window * steps).to(deltas.dtype).expand_as(deltas)
    order = deltas.abs().argsort(dim=-1, stable=True)
    stays = torch.empty_like(deltas).scatter_(-1, order, chances)
    return torch.where(draws < stays, deltas / stays, 0.0)
