"""An adapter as data: low-rank factors by module name, with their scale in B.

So the change to a weight is `B @ A` and nothing else, which is what makes a file sound the same in every program
(DESIGN.md, adapter folder).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from acestep.errors import AdapterError
from acestep.lora.metadata import AdapterMetadata


@dataclass(frozen=True)
class Factors:
    """One module's change, `B @ A`, with the scale in B.

    a: (rank, in, *kernel); b: (out, rank, *ones), with the trailing axes that convolutions have. magnitude: (out,) for
    DoRA, which then makes of a weight W: magnitude (W + B A) / ||W + B A||, the norm over each output's row.
    """

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def fits(self, weight: Sequence[int]) -> bool:
        """Whether `B @ A` has the shape of that weight."""
        if min(self.a.dim(), self.b.dim()) < 2:
            return False
        if self.magnitude is not None and tuple(self.magnitude.shape) != (weight[0],):
            return False
        ones = (1,) * (len(weight) - 2)
        shaped = tuple(self.a.shape) == (self.rank, *weight[1:])
        return shaped and tuple(self.b.shape) == (weight[0], self.rank, *ones)

    def padded(self, rank: int) -> Factors:
        """Zeros up to `rank`; the product stays as it is."""
        more = rank - self.rank
        if more == 0:
            return self
        rows = (0, 0) * (self.a.dim() - 1) + (0, more)
        columns = (0, 0) * (self.b.dim() - 2) + (0, more)
        return Factors(pad(self.a, rows), pad(self.b, columns), self.magnitude)

    def scaled(self, scale: float) -> Factors:
        """B times a number; with 1 the same factors."""
        return self if scale == 1 else replace(self, b=self.b * scale)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """What is added to the weight, in the weight's shape; for DoRA that depends on the weight."""
        product: Tensor = (self.b.flatten(1) @ self.a.flatten(1)).view(self.delta_shape())
        if self.magnitude is None:
            return product
        if weight is None:
            raise AdapterError("what a DoRA changes depends on the base's weights; give the base to work it out")
        changed = weight.to(product) + product
        gains: Tensor = self.magnitude / changed.flatten(1).norm(dim=1)
        delta: Tensor = changed * gains.view(-1, *(1 for _ in changed.shape[1:])) - weight
        return delta

    def delta_shape(self) -> tuple[int, ...]:
        return (*self.b.shape[:1], *self.a.shape[1:])

    def product_norm(self) -> float:
        """||B A|| (Frobenius) without making the product: the trace of (B'B)(A A')."""
        a, b = self.a.flatten(1).double(), self.b.flatten(1).double()
        return float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())


@dataclass(frozen=True)
class ReadingReport:
    """What became of a file's tensors, and where its strength came from."""

    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    scale_source: str = "none"
    scales: Mapping[str, float] = field(default_factory=dict)
    """What each module's product is multiplied by, as the file means it."""
    kinds: tuple[str, ...] = ()
    """LoRA, DoRA, LoHa or LoKr, as far as they occur."""
    dtype: torch.dtype = torch.float32
    """The widest that the file holds."""
    lost: Mapping[str, float] = field(default_factory=dict)
    """Share of each change's norm that a lower rank cost, of modules where one was asked for."""


@dataclass(frozen=True)
class Adapter:
    """Factors by the model's own module names, and what the file said about itself."""

    factors: Mapping[str, Factors]
    metadata: AdapterMetadata = field(default_factory=AdapterMetadata)
    report: ReadingReport = field(default_factory=ReadingReport)

    @property
    def rank(self) -> int:
        """The largest of its modules' ranks."""
        return max(factors.rank for factors in self.factors.values())

    @property
    def is_dora(self) -> bool:
        return any(factors.magnitude is not None for factors in self.factors.values())
