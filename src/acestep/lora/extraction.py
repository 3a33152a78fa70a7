"""A LoRA out of two checkpoints: the leading part of what fine-tuning changed, weight by weight, with what is missing.

The difference of each weight is decomposed, exactly where it is small and by subspace iteration where large
(low_rank.py), so the LoRA is the best of its rank. A whole fine-tuning is seldom of low rank: the report says how
much is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acestep.errors import AdapterError, CheckpointError
from acestep.families.hub import find_checkpoint
from acestep.lora.adapter import write_adapter
from acestep.lora.baking import TRANSFORMER_WEIGHTS, family_of
from acestep.lora.bases import base_shapes
from acestep.lora.factors import Adapter, Factors
from acestep.lora.low_rank import RankChoice, decompose_dense
from acestep.lora.merge.settings import check_rank, checked_dtype
from acestep.lora.metadata import AdapterMetadata
from acestep.lora.output import check_output, told_in_words
from acestep.lora.tensor_file import TensorFile, open_tensor_file


@dataclass(frozen=True)
class ExtractedModule:
    """One weight that differs."""

    module: str
    rank: int
    energy_lost: float
    """The share of ||difference||^2 that is not in the LoRA."""
    norm: float
    """||difference||."""


@dataclass(frozen=True)
class ExtractReport:
    """What was found."""

    path: Path
    rank: int
    modules: tuple[ExtractedModule, ...]
    energy_lost: float
    """Over all modules."""
    left_out: tuple[str, ...]
    """Tensors that differ and that no LoRA can hold: biases, norms and the like."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "rank": self.rank,
            "energy_lost": self.energy_lost,
            "modules": [vars(module) for module in self.modules],
            "left_out": list(self.left_out),
        }


def extract_adapter(
    finetuned: str | Path,
    base: str | Path,
    output: str | Path,
    *,
    rank: RankChoice = 32,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Write the LoRA of `rank` that is nearest to finetuned - base. rank "auto": keeps 99 % of every module's energy.

    finetuned, base: checkpoints of one size (folder, hub id or "nano"). dtype: None writes float32. One weight is in
    memory at a time. Raises CheckpointError for checkpoints of different sizes, AdapterError for equal ones.
    """
    check_rank(rank)
    output, chosen = Path(output), checked_dtype(dtype)
    check_output(output, overwrite=overwrite)
    folder, other = find_checkpoint(base), find_checkpoint(finetuned)
    shapes = base_shapes(folder)
    ours, theirs = (open_tensor_file(place / TRANSFORMER_WEIGHTS) for place in (folder, other))
    _check_alike(ours, theirs)
    factors: dict[str, Factors] = {}
    told: list[ExtractedModule] = []
    left_out: list[str] = []
    for done, name in enumerate(ours.entries, start=1):
        before, after = ours.read([name])[name], theirs.read([name])[name]
        module = name.removesuffix(".weight")
        if not torch.equal(before.to(after.dtype), after):
            if module not in shapes or module == name:
                left_out.append(name)
            else:
                delta = after.float() - before.float()
                if not bool(torch.isfinite(delta).all()):
                    raise CheckpointError(f"{name} holds numbers that are not finite in {finetuned} or {base}")
                seed = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "big") >> 1
                found = decompose_dense(delta.flatten(1), rank, torch.Generator().manual_seed(seed))
                factors[module] = found.factors(shapes[module])
                told.append(ExtractedModule(module, found.rank, found.lost(found.rank), found.energy**0.5))
        if progress is not None:
            progress(done, len(ours.entries))
    if not factors:
        raise AdapterError(f"{finetuned} and {base} have the same weights wherever a LoRA can be: nothing to extract")
    metadata = AdapterMetadata(
        family=family_of(folder),
        base_model=folder.name if Path(base).is_dir() else str(base),
        method="extracted",
        options={"rank": rank, "from": other.name},
    )
    adapter = Adapter(factors, metadata)
    with told_in_words(output):
        write_adapter(output, adapter, dtype=chosen or torch.float32)
    energy = sum(module.norm**2 for module in told)
    lost = sum(module.energy_lost * module.norm**2 for module in told) / energy
    return ExtractReport(output, adapter.rank, tuple(told), lost, tuple(left_out))


def _check_alike(ours: TensorFile, theirs: TensorFile) -> None:
    """CheckpointError with both names for checkpoints that are not of one size."""
    if missing := sorted(ours.entries.keys() ^ theirs.entries.keys()):
        raise CheckpointError(f"{ours.path} and {theirs.path} do not hold the same tensors: {', '.join(missing[:5])}")
    for name, entry in ours.entries.items():
        if entry.shape != theirs.entries[name].shape:
            raise CheckpointError(
                f"{name} is {list(entry.shape)} in {ours.path} and {list(theirs.entries[name].shape)} in {theirs.path};"
                " only checkpoints of one size can be compared"
            )
