"""Merged changes cut at the rank that their file will have, as factors, with an account of what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from acestep.errors import AdapterError
from acestep.lora.factors import Factors
from acestep.lora.low_rank import LowRank, inner_product
from acestep.lora.merge.report import ModuleMerge
from acestep.lora.merge.sources import Source


@dataclass(frozen=True)
class Cut:
    """Factors by module, and what is told of them; kept, energy_lost: as in `report.MergeReport`."""

    factors: dict[str, Factors]
    modules: tuple[ModuleMerge, ...]
    kept: tuple[float, ...]
    energy_lost: float


def cut(merged: dict[str, LowRank], sources: Sequence[Source], rank: int, dtype: torch.dtype) -> Cut:
    """Every change at `rank`, or its own where that is lower. Empties `merged`, so that memory is needed once.

    AdapterError where the dtype has no numbers that large.
    """
    energy = sum(change.energy for change in merged.values())
    # Each source's ||change||^2 by module: what there is of it to be kept.
    wholes = [{name: own.product_norm() ** 2 for name, own in source.adapter.factors.items()} for source in sources]
    inner, lost_energy = [0.0] * len(sources), 0.0
    factors: dict[str, Factors] = {}
    modules: list[ModuleMerge] = []
    for module in tuple(merged):
        change = merged.pop(module)
        lost, leading = change.lost(rank), change.cut(rank)
        own = [source.adapter.factors.get(module) for source in sources]
        made = leading.factors(next(found.delta_shape() for found in own if found is not None))
        here = [0.0 if found is None else inner_product(made, found) for found in own]
        kept = tuple(
            one / there if (there := whole.get(module, 0.0)) else None for one, whole in zip(here, wholes, strict=True)
        )
        inner = [so_far + more for so_far, more in zip(inner, here, strict=True)]
        lost_energy += lost * change.energy
        modules.append(ModuleMerge(module, leading.rank, lost, float(leading.values.double().norm()), kept))
        factors[module] = _stored(module, made, leading, dtype)
    totals = [sum(whole.values()) for whole in wholes]
    return Cut(
        factors,
        tuple(modules),
        tuple(one / total if total else 0.0 for one, total in zip(inner, totals, strict=True)),
        lost_energy / energy,
    )


def _stored(module: str, made: Factors, leading: LowRank, dtype: torch.dtype) -> Factors:
    # Singular vectors have no number above 1, so this bounds both factors.
    if not float(leading.values[0].sqrt()) < torch.finfo(dtype).max:
        raise AdapterError(
            f"{module} is too large for {str(dtype).removeprefix('torch.')}: give smaller weights, or float32"
        )
    return Factors(made.a.to(dtype), made.b.to(dtype))
