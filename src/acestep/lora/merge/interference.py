"""How adapters get in each other's way, told from their factors before anything is merged.

Cosines and norms are exact. Principal angles (Bjorck and Golub 1973) say how far the outputs that two changes write to,
and the inputs that they read, are the same. Signs are compared at places drawn at random, all of them where few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from acestep.lora.factors import Adapter, Factors
from acestep.lora.low_rank import decompose, inner_product
from acestep.lora.merge.threads import one_thread

PLACES = 16_384
"""Where signs are compared in one module: its share has a standard error of 0.4 per cent at most."""


@dataclass(frozen=True)
class ModuleInterference:
    """Two adapters' changes to one module.

    cosine: from -1 to 1, near 0 where they have nothing to do with each other. outputs, inputs: the principal angles in
    degrees, smallest first: 0 is a direction that both use, 90 one that the other leaves alone. overlap_*: the mean
    squared cosine of them, 1 where the smaller change's directions are all in the other's. sign_conflict: the share of
    places where the signs differ, 0.5 for changes that have nothing to do with each other. norm_ratio: the first's norm
    to the second's.
    """

    module: str
    cosine: float
    outputs_deg: tuple[float, ...]
    inputs_deg: tuple[float, ...]
    overlap_outputs: float
    overlap_inputs: float
    sign_conflict: float
    norm_ratio: float


@dataclass(frozen=True)
class PairInterference:
    """Two adapters, over the modules that both change."""

    first: str
    second: str
    cosine: float
    """Over all modules that both change, as one vector."""
    sign_conflict: float
    modules: tuple[ModuleInterference, ...]
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Interference:
    """All pairs; and the adapters' norms, which say whose voice is loudest.

    matched: what to multiply each weight by so that all changes have the geometric mean of their norms.
    """

    names: tuple[str, ...]
    norms: tuple[float, ...]
    matched: tuple[float, ...]
    pairs: tuple[PairInterference, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_interference(adapters: Sequence[tuple[str, Adapter]], *, seed: int = 0) -> Interference:
    """Names and adapters in, every pair compared. Costs a thin SVD a module and adapter."""
    with one_thread():
        return _measure(adapters, seed)


def _measure(adapters: Sequence[tuple[str, Adapter]], seed: int) -> Interference:
    norms = [
        math.sqrt(sum(factors.product_norm() ** 2 for factors in adapter.factors.values())) for _, adapter in adapters
    ]
    there = [norm for norm in norms if norm > 0]
    mean = math.exp(sum(map(math.log, there)) / len(there)) if there else 0.0
    return Interference(
        names=tuple(name for name, _ in adapters),
        norms=tuple(norms),
        matched=tuple(mean / norm if norm else 1.0 for norm in norms),
        pairs=tuple(_pair(one, other, seed) for one, other in itertools.combinations(adapters, 2)),
    )


def _pair(one: tuple[str, Adapter], other: tuple[str, Adapter], seed: int) -> PairInterference:
    (first, own), (second, others) = one, other
    common = [module for module in own.factors if module in others.factors]
    inner = squares = other_squares = conflict = 0.0
    modules = []
    for module in common:
        a, b = own.factors[module], others.factors[module]
        product, norm, other_norm = inner_product(a, b), a.product_norm(), b.product_norm()
        inner, squares, other_squares = inner + product, squares + norm**2, other_squares + other_norm**2
        if not norm or not other_norm:
            continue
        modules.append(_module(module, a, b, product, norm, other_norm, seed))
        conflict += modules[-1].sign_conflict
    return PairInterference(
        first=first,
        second=second,
        cosine=inner / math.sqrt(squares * other_squares) if squares and other_squares else 0.0,
        sign_conflict=conflict / len(modules) if modules else 0.0,
        modules=tuple(modules),
        only_first=len(own.factors) - len(common),
        only_second=len(others.factors) - len(common),
    )


def _module(
    module: str, one: Factors, other: Factors, product: float, norm: float, other_norm: float, seed: int
) -> ModuleInterference:
    first, second = (decompose(change.b.flatten(1), change.a.flatten(1)) for change in (one, other))
    outputs = torch.linalg.svdvals(first.left.T @ second.left).clamp(max=1)
    inputs = torch.linalg.svdvals(first.right @ second.right.T).clamp(max=1)
    return ModuleInterference(
        module=module,
        cosine=max(-1.0, min(1.0, product / (norm * other_norm))),
        outputs_deg=_degrees(outputs),
        inputs_deg=_degrees(inputs),
        overlap_outputs=float(outputs.square().mean()),
        overlap_inputs=float(inputs.square().mean()),
        sign_conflict=_sign_conflict(one, other, seed),
        norm_ratio=norm / other_norm,
    )


def _sign_conflict(one: Factors, other: Factors, seed: int) -> float:
    """The share of places, of those where both are something, at which the signs differ."""
    (b, a), (other_b, other_a) = ((change.b.flatten(1), change.a.flatten(1)) for change in (one, other))
    rows, columns = len(b), a.shape[1]
    if rows * columns <= PLACES:
        values, others = (b @ a).flatten(), (other_b @ other_a).flatten()
    else:
        generator = torch.Generator().manual_seed(seed)
        row = torch.randint(rows, (PLACES,), generator=generator)
        column = torch.randint(columns, (PLACES,), generator=generator)
        values = (b[row] * a[:, column].T).sum(1)
        others = (other_b[row] * other_a[:, column].T).sum(1)
    signs = values.sign() * others.sign()
    both = int((signs != 0).sum())
    return int((signs < 0).sum()) / both if both else 0.0


def _degrees(cosines: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(math.degrees(math.acos(cosine)), 2) for cosine in cosines.tolist())
