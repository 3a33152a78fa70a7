"""From any format to any that we write, and the proof that nothing was lost on the way.

What is written has the scale in B and alpha = rank (formats.py). LoRA to LoRA is exact to float32's rounding of the
scaled B: the source's dtype is kept where every number fits into it, and float32 taken where not. LoHa and LoKr become
LoRAs as exactly, of a large rank; asking for a smaller one costs what the report says.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.errors import AdapterError, InputError
from acestep.lora.adapter import read_adapter
from acestep.lora.bases import base_shapes, guess_base
from acestep.lora.card import model_card
from acestep.lora.factors import Adapter, Factors
from acestep.lora.formats import Format, find_format, save_adapter_file
from acestep.lora.locating import locate_adapter
from acestep.lora.output import is_adapter_folder
from acestep.lora.tensor_file import open_tensor_file
from acestep.lora.whole_folder import written_whole

_FILE = ".safetensors"


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: Path
    adapter: Adapter
    dtype: torch.dtype


@dataclass(frozen=True)
class Verification:
    """How far two adapters' changes lie apart."""

    largest: float
    """The largest |difference| between two weights' changes."""
    module: str | None
    """Where it is; None where there is none."""
    largest_change: float
    """The largest |change| of the first among modules that differ, to measure the difference by; 0 where none does."""
    missing: tuple[str, ...] = ()
    """Modules that only one of the two has."""

    @property
    def relative(self) -> float:
        return self.largest / self.largest_change if self.largest_change else self.largest


def convert_adapter(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    base: str | Path | None = None,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
    raw_scale: bool = False,
    force: bool = False,
) -> Conversion:
    """Write an adapter in another format: a file where `target` ends in .safetensors, else a folder with its card.

    base: as in `bases.base_shapes`; None finds it out from the file. dtype: None keeps the source's where that is
    exact. rank: the most that a module may have; the adapter's report says what that lost.
    Raises InputError where `target` is there already, unless `force` and it is an adapter.
    """
    chosen, target = find_format(to), Path(target)
    if target.suffix == _FILE and chosen.config and chosen.name != "acestep":
        raise InputError(f"{to} reads a folder with a config; give a folder's name in place of {target.name}")
    _refuse_existing(target, force=force)
    adapter = read_adapter(source, known_shapes(source, base), raw_scale=raw_scale, rank=rank)
    dtype = dtype or exact_dtype(adapter)
    if target.suffix == _FILE:
        _write_file(target, adapter, chosen, dtype)
    else:
        _write_folder(target, adapter, chosen, dtype)
    return Conversion(target, adapter, dtype)


def known_shapes(source: str | Path, base: str | Path | None = None) -> Mapping[str, Sequence[int]] | None:
    """Shapes of the base that was named, else of the known one that a file fits; None where it fits none."""
    if base is not None:
        return base_shapes(base)
    guessed = guess_base(open_tensor_file(locate_adapter(source).weights).entries)
    return None if guessed is None else base_shapes(guessed)


def exact_dtype(adapter: Adapter) -> torch.dtype:
    """The dtype of the file that an adapter came from, or float32 where its numbers, scaled, do not fit into that."""
    dtype = adapter.report.dtype
    fits = all(_survives(tensor, dtype) for factors in adapter.factors.values() for tensor in _tensors(factors))
    return dtype if fits else torch.float32


def verify_adapters(first: Adapter, second: Adapter) -> Verification:
    """The largest difference between what two adapters do to any weight.

    For DoRA, whose change depends on the base, B A and the magnitudes are compared. Costs a dense product for each
    module whose factors are not equal already.
    """
    common = [module for module in first.factors if module in second.factors]
    if not common:
        raise AdapterError("the two adapters have no module in common, so there is nothing to compare")
    largest, where, change = 0.0, None, 0.0
    for module in common:
        one, other = first.factors[module], second.factors[module]
        found, size = _difference(one, other, module)
        change = max(change, size)
        if found > largest:
            largest, where = found, module
    missing = tuple(sorted(first.factors.keys() ^ second.factors.keys()))
    return Verification(largest, where, change, missing)


def verify_round_trip(source: str | Path, to: str, *, folder: Path, base: str | Path | None = None) -> Verification:
    """Convert into a new file or folder inside `folder`, read that back and compare it with the source."""
    shapes = known_shapes(source, base)
    target = folder / f"round-trip-{uuid.uuid4().hex[:8]}"
    try:
        converted = convert_adapter(source, target, to, base=base)
        return verify_adapters(converted.adapter, read_adapter(target, shapes))
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _difference(one: Factors, other: Factors, module: str) -> tuple[float, float]:
    """(largest |difference|, largest |change of the first|), zeros for equal factors; float64, some rows at a time."""
    if one.delta_shape() != other.delta_shape() or (one.magnitude is None) != (other.magnitude is None):
        raise AdapterError(f"the two adapters change {module} in other ways: {_described(one)} and {_described(other)}")
    rank = max(one.rank, other.rank)
    pairs = zip(_tensors(one.padded(rank)), _tensors(other.padded(rank)), strict=True)
    if all(torch.equal(mine, theirs) for mine, theirs in pairs):
        return 0.0, 0.0
    largest, change = 0.0, 0.0
    if one.magnitude is not None and other.magnitude is not None:
        largest = float((one.magnitude - other.magnitude).abs().max())
    (b, a), (other_b, other_a) = ((f.b.flatten(1).double(), f.a.flatten(1).double()) for f in (one, other))
    for start in range(0, len(b), 512):
        rows = slice(start, start + 512)
        product = b[rows] @ a
        change = max(change, float(product.abs().max()))
        largest = max(largest, float((product - other_b[rows] @ other_a).abs().max()))
    return largest, change


def _described(factors: Factors) -> str:
    return f"{'LoRA' if factors.magnitude is None else 'DoRA'} {list(factors.delta_shape())}"


def _tensors(factors: Factors) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in (factors.a, factors.b, factors.magnitude) if tensor is not None)


def _survives(tensor: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def _refuse_existing(target: Path, *, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise InputError(f"{target} is there already; give another name, or force to replace it")
    if not (target.is_file() if target.suffix == _FILE else is_adapter_folder(target)):
        raise InputError(f"{target} is there already and is no adapter; give another name, or move it away")


def _write_file(target: Path, adapter: Adapter, chosen: Format, dtype: torch.dtype) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        save_adapter_file(partial, adapter, chosen, dtype=dtype, with_config=False)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write_folder(target: Path, adapter: Adapter, chosen: Format, dtype: torch.dtype) -> None:
    card = model_card(target.name, adapter.metadata, modules=len(adapter.factors), rank=adapter.rank)
    with written_whole(target) as partial:
        name = chosen.weights_file or f"{target.name}{_FILE}"
        save_adapter_file(partial / name, adapter, chosen, dtype=dtype)
        (partial / "README.md").write_text(card, encoding="utf-8")
