"""One module of a merge: its adapters' factors in, the leading part of the merged change out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from acestep.lora.factors import Factors
from acestep.lora.low_rank import LowRank, RankChoice, decompose, decompose_dense, inner_product
from acestep.lora.merge.methods import Method


def combine(
    method: Method,
    changes: Sequence[Factors],
    weights: Tensor,
    *,
    options: Mapping[str, float],
    rank: RankChoice | None,
    seeds: Sequence[object],
) -> LowRank:
    """The changes merged, cut at `rank`; with `auto` or None linear methods and those in shared space cut nothing.

    weights: (adapters,) float64; rank None: the sum of the adapters' own; seeds: one an adapter, what its random draws
    depend on. Memory: dense methods need a few times (adapters, out, in) float32, the others a few times the factors.
    """
    if method.kind != "linear":
        # Other methods look at all that they are given, and one of weight 0 has no say.
        heard = [index for index, weight in enumerate(weights.tolist()) if weight]
        changes, seeds, weights = [changes[i] for i in heard], [seeds[i] for i in heard], weights[heard]
    if method.kind == "dense":
        delta = _dense(method, changes, weights, options, seeds)
        wanted = sum(change.rank for change in changes) if rank is None else rank
        return decompose_dense(delta, wanted, _generator("subspace", *seeds))
    merged = _linear(method, changes, weights, options) if method.kind == "linear" else None
    if merged is None:
        b, a = _stacked(changes)
        merged = method.merge(b, a, weights, **options)
    return merged.cut(rank) if isinstance(rank, int) else merged


def gram_of(changes: Sequence[Factors]) -> Tensor:
    """Inner products of the changes, (adapters, adapters) float64."""
    gram = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for row, one in enumerate(changes):
        for column in range(row, len(changes)):
            gram[row, column] = gram[column, row] = inner_product(one, changes[column])
    return gram


def _linear(method: Method, changes: Sequence[Factors], weights: Tensor, options: Mapping[str, float]) -> LowRank:
    """A weighted sum of products is one product, of the stacked factors."""
    seen = {"gram": gram_of(changes)} if method.takes("gram") else {}
    coefficients = method.merge(weights, **seen, **options).tolist()
    used = [(c, change) for c, change in zip(coefficients, changes, strict=True) if c]
    if not used:
        used = [(0.0, changes[0])]
    b = torch.cat([c * change.b.flatten(1).double() for c, change in used], dim=1)
    return decompose(b, torch.cat([change.a.flatten(1) for _, change in used]))


def _dense(
    method: Method, changes: Sequence[Factors], weights: Tensor, options: Mapping[str, float], seeds: Sequence[object]
) -> Tensor:
    deltas = torch.stack([change.b.flatten(1) @ change.a.flatten(1) for change in changes])
    seen = {}
    if method.takes("draws"):
        # By the adapter and not by its place, so that the order in which adapters are named changes nothing.
        seen["draws"] = torch.stack([torch.rand(deltas.shape[1:], generator=_generator("draws", s)) for s in seeds])
    delta: Tensor = method.merge(deltas, weights.to(deltas.dtype), **seen, **options)
    return delta


def _stacked(changes: Sequence[Factors]) -> tuple[Tensor, Tensor]:
    """(adapters, out, rank) and (adapters, rank, in) float64, zeros up to the largest rank."""
    rank = max(change.rank for change in changes)
    padded = [change.padded(rank) for change in changes]
    b = torch.stack([change.b.flatten(1).double() for change in padded])
    return b, torch.stack([change.a.flatten(1).double() for change in padded])


def _generator(*parts: object) -> torch.Generator:
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
