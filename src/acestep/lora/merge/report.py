"""What a merge tells of itself: what each module became, what the rank cost, and how much of each source is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from acestep.lora.merge.interference import Interference
from acestep.lora.metadata import Parent


@dataclass(frozen=True)
class ModuleMerge:
    """What became of one module."""

    module: str
    rank: int
    """What it has in the file, without padding."""
    energy_lost: float
    """The share of ||merged change||^2 that the rank cost."""
    norm: float
    """||change|| as it is written."""
    kept: tuple[float | None, ...]
    """Of each source, how much of its change is in the merge: <merged, source> / ||source||^2; None without a change.

    1 is as strong as in training, 0 not there at all. What another source does along the same direction counts too.
    """


@dataclass(frozen=True)
class MergeReport:
    """What was merged, and what it cost."""

    path: Path
    strategy: str
    options: Mapping[str, Any]
    rank: int
    dtype: torch.dtype
    sources: tuple[Parent, ...]
    modules: tuple[ModuleMerge, ...]
    kept: tuple[float, ...]
    """Of each source over all modules."""
    energy_lost: float
    """Over all modules."""
    base: str | None = None
    warnings: tuple[str, ...] = ()
    interference: Interference | None = field(default=None, repr=False)

    @property
    def worst(self) -> ModuleMerge:
        """The module that the rank cost most."""
        return max(self.modules, key=lambda module: module.energy_lost)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "strategy": self.strategy,
            "options": dict(self.options),
            "base": self.base,
            "rank": self.rank,
            "dtype": str(self.dtype).removeprefix("torch."),
            "energy_lost": self.energy_lost,
            "sources": [
                {"name": parent.name, "sha256": parent.sha256, "weight": parent.weight, "kept": kept}
                for parent, kept in zip(self.sources, self.kept, strict=True)
            ],
            "modules": [
                {
                    "module": module.module,
                    "rank": module.rank,
                    "energy_lost": module.energy_lost,
                    "norm": module.norm,
                    "kept": list(module.kept),
                }
                for module in self.modules
            ],
            "warnings": list(self.warnings),
            "interference": None if self.interference is None else self.interference.as_dict(),
        }
