"""Changes as thin singular value decompositions, and the nearest ones of a lower rank (Eckart and Young 1936).

A product of factors is decomposed by thin QRs of both and the SVD of a small core, so its size in full never matters. A
dense change is decomposed by subspace iteration (Halko et al. 2011, arXiv:0909.4061, algorithm 4.4); what is lost is
exact all the same, because the energy of the whole is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from acestep.lora.factors import Factors

RankChoice = int | Literal["auto", "full"]

KEPT_BY_AUTO = 0.99
"""Share of a module's energy, ||change||^2, that the rank `auto` keeps."""

# Singular values below this share of the largest are the rounding of float32 factors.
_ROUNDING = torch.finfo(torch.float32).eps
_NOTHING = 1e-13
# Of the inverse's squared norm: what float64 then loses is a hundredth of float32's rounding.
_WELL_CONDITIONED = 1e6
# Up to this size, or where a quarter of all singular values is wanted, LAPACK's whole SVD is as quick.
_SMALL = 256
_MORE = 16
_ITERATIONS = 2


@dataclass(frozen=True)
class LowRank:
    """left diag(values) right, the leading part of a change.

    left: (out, k), right: (k, in), orthonormal; values: (k,), largest first; energy: ||change||^2 of the whole of it.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    energy: float

    @property
    def rank(self) -> int:
        return len(self.values)

    def lost(self, rank: int) -> float:
        """The share of the energy that a cut at `rank` loses, from 0 to 1."""
        if self.energy <= 0 or (rank >= self.rank and self.is_whole):
            return 0.0
        return max(0.0, 1 - float(self.values[:rank].double().square().sum()) / self.energy)

    @property
    def is_whole(self) -> bool:
        """Whether nothing but rounding was left out."""
        kept = float(self.values.double().square().sum())
        return kept >= self.energy * (1 - 4 * _ROUNDING)

    def rank_keeping(self, share: float) -> int:
        """The smallest rank with at least that share of the energy; all there are where that is not enough."""
        kept = self.values.double().square().cumsum(0)
        return min(int((kept < share * self.energy).sum()) + 1, self.rank)

    def cut(self, rank: int) -> LowRank:
        return LowRank(self.left[:, :rank], self.values[:rank], self.right[:rank], self.energy)

    def factors(self, shape: tuple[int, ...]) -> Factors:
        """As factors of a weight of that shape, float32; each singular value is shared evenly between A and B."""
        root = self.values.sqrt()
        ones = (1,) * (len(shape) - 2)
        a = (root[:, None] * self.right).float().view(self.rank, *shape[1:])
        return Factors(a, (self.left * root).float().view(shape[0], self.rank, *ones))


def decompose(b: Tensor, a: Tensor) -> LowRank:
    """All of b @ a but rounding. b: (out, rank), a: (rank, in), any dtype -> float64"""
    left_core, to_left = _thin_qr(b.double())
    right_core, to_right = _thin_qr(a.double().T)
    u, values, v = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    # Where changes cancel out, what is left is the rounding of this computation.
    values = values.where(values > _NOTHING * left_core.norm() * right_core.norm(), 0.0)
    kept = above_rounding(values)
    energy = float(values.square().sum())
    return LowRank(to_left(u[:, :kept]), values[:kept], to_right(v[:kept].T).T, energy)


def decompose_dense(delta: Tensor, rank: RankChoice, generator: torch.Generator) -> LowRank:
    """The leading part of a dense change: `rank` singular values, or what `auto` needs. delta: (out, in) float32

    Exact where all are wanted or the matrix is small; else within a per cent or so of the best, as `lost` tells.
    """
    # By rows in float32 and then in float64: a copy of the whole in float64 would double the memory.
    energy = float(delta.square().sum(1).double().sum())
    smaller = min(delta.shape)
    if energy == 0:
        return LowRank(delta[:, :0], delta.new_zeros(0), delta[:0], 0.0)
    wanted = 64 if rank == "auto" else smaller if rank == "full" else min(rank, smaller)
    while smaller > _SMALL and wanted * 4 < smaller:
        found = _subspace_iteration(delta, wanted, energy, generator)
        if rank != "auto" or found.lost(found.rank) <= 1 - KEPT_BY_AUTO:
            return found
        wanted *= 2
    u, values, v = torch.linalg.svd(delta.double() if smaller <= _SMALL else delta, full_matrices=False)
    kept = above_rounding(values)
    whole = LowRank(u[:, :kept], values[:kept], v[:kept], energy)
    return whole.cut({"full": kept, "auto": whole.rank_keeping(KEPT_BY_AUTO)}[rank] if isinstance(rank, str) else rank)


def inner_product(one: Factors, other: Factors) -> float:
    """<B1 A1, B2 A2> (Frobenius) without making either product: the sum over (B1' B2) * (A1 A2')."""
    b, a = one.b.flatten(1).T @ other.b.flatten(1), one.a.flatten(1) @ other.a.flatten(1).T
    return float((b.double() * a.double()).sum())


def _thin_qr(columns: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """R of columns = Q R, and the function that takes numbers in the basis Q to vectors. columns: (size, count) float64

    By the Cholesky factor of the Gram matrix, which is a third of the work, where that is safe: Q is then orthonormal
    to 1e-16 times the inverse's norm. Where columns repeat each other, by Householder's reflections.
    """
    norms = columns.norm(dim=0).clamp(min=torch.finfo(columns.dtype).tiny)
    lower, failed = torch.linalg.cholesky_ex(columns.T @ columns / (norms[:, None] * norms))
    if not failed:
        inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
        if float(inverse.square().sum()) < _WELL_CONDITIONED:
            return lower.T * norms, lambda numbers: columns @ (inverse.T @ numbers / norms[:, None])
    basis, core = torch.linalg.qr(columns)
    return core, lambda numbers: basis @ numbers


def _subspace_iteration(delta: Tensor, rank: int, energy: float, generator: torch.Generator) -> LowRank:
    basis = delta @ torch.randn(delta.shape[1], rank + _MORE, generator=generator)
    for _ in range(_ITERATIONS):
        # Orthonormal in between, or the largest direction drowns the others in float32.
        rows = torch.linalg.qr(delta.T @ torch.linalg.qr(basis)[0])[0]
        basis = delta @ rows
    basis = torch.linalg.qr(basis)[0]
    u, values, v = torch.linalg.svd(basis.T @ delta, full_matrices=False)
    return LowRank(basis @ u[:, :rank], values[:rank], v[:rank], energy)


def above_rounding(values: Tensor) -> int:
    """How many singular values, largest first, are more than the rounding of float32 factors."""
    return int((values > values[:1] * _ROUNDING).sum())
