"""Adapters folded into a checkpoint: the released layout with W + sum w (W' - W) in place of W.

The transformer's file is written tensor by tensor, so a checkpoint larger than the memory is no matter; the codec and
the text encoder are the base's own files, linked where the disk allows it. The same sum that attached adapters compute.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.errors import AdapterError, CheckpointError, InputError
from acestep.families.checkpoint import read_config
from acestep.families.hub import find_checkpoint
from acestep.lora.adapter import read_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.factors import Adapter
from acestep.lora.lineage import as_parent, distinct_names, sha256_of, told_once
from acestep.lora.locating import locate_adapter
from acestep.lora.merge.groups import checked_weights
from acestep.lora.merge.settings import checked_dtype
from acestep.lora.merge.sources import checked_loras
from acestep.lora.metadata import Parent
from acestep.lora.output import check_output, told_in_words
from acestep.lora.tensor_file import TensorFile, open_tensor_file
from acestep.lora.tensor_stream import DTYPES_BY_NAME, PlannedTensor, write_tensors
from acestep.lora.whole_folder import written_whole

HEADER_KEY = "acestep_baked"
"""Where a baked checkpoint's transformer file keeps the lineage of what is in it."""

TRANSFORMER_WEIGHTS = Path("ace_step_transformer") / "diffusion_pytorch_model.safetensors"
_COPIED_BYTES = 1_000_000
_CARD = "README.md"
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class BakeReport:
    """What was written."""

    path: Path
    adapters: tuple[Parent, ...]
    modules: int
    """How many weights were changed."""
    rounding: float
    """The share of ||change|| that the stored dtype rounds away; a bfloat16 weight has 8 bits for both."""
    dtype: torch.dtype | None
    linked: int
    """Files that are the base's own, which take no room."""


def bake(
    base: str | Path,
    loras: Sequence[tuple[str | Path, float]],
    output: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BakeReport:
    """Write `base` (a folder, hub id or "nano") with the adapters at their weights in it, whole or not at all.

    DoRAs are welcome: the base's weights are at hand. dtype: of the transformer's weights; None keeps the base's.
    progress: hears (tensors done, tensors). Raises AdapterError for adapters of another base, InputError for an output
    that is there, CheckpointError for files that cannot be read or written.
    """
    output, chosen = Path(output), checked_dtype(dtype)
    pairs = checked_loras(loras)
    if not pairs:
        raise InputError("there is no adapter to bake in; give at least one")
    weights = checked_weights([weight for _, weight in pairs]).tolist()
    folder = find_checkpoint(base)
    _check_output(output, folder, overwrite=overwrite)
    shapes = base_shapes(folder)
    adapters = [read_adapter(path, shapes) for path, _ in pairs]
    names = distinct_names([path for path, _ in pairs])
    parents = [
        as_parent(adapter.metadata, name=name, sha256=sha256_of(locate_adapter(path).weights), weight=weight)
        for (path, _), name, adapter, weight in zip(pairs, names, adapters, weights, strict=True)
    ]
    _check_families(folder, parents, adapters)
    file = open_tensor_file(folder / TRANSFORMER_WEIGHTS)
    planned = _planned(file, chosen)
    _check_room(output, sum(tensor.size for tensor in planned.values()))
    changed = {f"{module}.weight" for adapter in adapters for module in adapter.factors}
    lost = [0.0, 0.0]

    def make(name: str) -> Tensor:
        weight = file.read([name])[name]
        if name not in changed:
            return weight
        return _folded(name, weight, adapters, weights, planned[name].dtype, lost)

    header = {HEADER_KEY: json.dumps([parent.model_dump(mode="json") for parent in told_once(parents)])}
    with told_in_words(output), written_whole(output) as partial:
        linked = _link_others(folder, partial)
        # The base's own card would say that this is the base.
        (partial / _CARD).write_text(_card(output.name, folder.name, parents), encoding="utf-8")
        write_tensors(partial / TRANSFORMER_WEIGHTS, planned, make, metadata=header, progress=progress)
    rounding = (lost[0] / lost[1]) ** 0.5 if lost[1] else 0.0
    return BakeReport(output, tuple(parents), len(changed), rounding, chosen, linked)


def family_of(folder: Path) -> str:
    """The family that a checkpoint's folder says it is; v1 where it says nothing, as the released one does."""
    settings = folder / "family.json"
    return str(read_config(settings).get("name", "v1")) if settings.is_file() else "v1"


def _folded(
    name: str,
    weight: Tensor,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    dtype: torch.dtype,
    lost: list[float],
) -> Tensor:
    """The weight with all changes in it, in the dtype that it will have; adds up what that rounds away, and of what."""
    module, plain = name.removesuffix(".weight"), weight.float()
    found = [
        (w, adapter.factors[module]) for w, adapter in zip(weights, adapters, strict=True) if module in adapter.factors
    ]
    change = torch.zeros_like(plain)
    for strength, factors in found:
        # Read as the weight is shaped, so a change never lands across its axes.
        change += strength * factors.delta(plain).view_as(plain)
    stored = (plain + change).to(dtype)
    if not bool(torch.isfinite(stored).all()):
        raise AdapterError(f"{name} is no longer finite with these adapters in {dtype}; give smaller weights")
    lost[0] += float((stored.float() - plain - change).square().sum())
    lost[1] += float(change.square().sum())
    return stored


def _planned(file: TensorFile, dtype: torch.dtype | None) -> dict[str, PlannedTensor]:
    if odd := [name for name, entry in file.entries.items() if entry.dtype not in DTYPES_BY_NAME]:
        raise CheckpointError(f"{file.path} has tensors of a dtype that cannot be written again: {', '.join(odd[:5])}")
    own = {name: DTYPES_BY_NAME[entry.dtype] for name, entry in file.entries.items()}
    return {
        name: PlannedTensor(dtype if dtype is not None and own[name] in _FLOATS else own[name], entry.shape)
        for name, entry in file.entries.items()
    }


def _check_families(folder: Path, parents: Sequence[Parent], adapters: Sequence[Adapter]) -> None:
    family = family_of(folder)
    for parent, adapter in zip(parents, adapters, strict=True):
        if adapter.metadata.family not in (None, family):
            raise AdapterError(f"{parent.name} was made for {adapter.metadata.family}, and {folder.name} is {family}")


def _check_output(output: Path, base: Path, *, overwrite: bool) -> None:
    check_output(output, overwrite=overwrite)
    resolved, inside = output.resolve(), base.resolve()
    if resolved == inside or inside in resolved.parents or resolved in inside.parents:
        raise InputError(f"{output} and the base's folder {base} lie in each other; give a folder beside it")
    if output.exists() and any(output.iterdir()) and not (output / TRANSFORMER_WEIGHTS).is_file():
        raise InputError(f"{output} holds something that is no checkpoint; give another name, or move it away")


def _check_room(output: Path, needed: int) -> None:
    there = next(parent for parent in output.resolve().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise CheckpointError(
            f"the transformer takes {needed / 1e9:.2f} GB, and {there} has {free / 1e9:.2f} GB left; make room"
        )


def _card(title: str, base: str, parents: Sequence[Parent]) -> str:
    lines = [f"- {parent.name}, weight {parent.weight:g} (sha256 {parent.sha256})" for parent in parents]
    return "\n".join([f"# {title}", "", f"{base} with these adapters folded into its transformer:", "", *lines]) + "\n"


def _link_others(folder: Path, target: Path) -> int:
    """All other files of the checkpoint. Large ones are linked where the disk can; small ones may be edited."""
    linked = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        if relative == TRANSFORMER_WEIGHTS:
            continue
        source = path.resolve()
        if source.stat().st_size >= _COPIED_BYTES:
            try:
                os.link(source, place)
                linked += 1
                continue
            except OSError:
                pass  # another disk, or one without links
        shutil.copyfile(source, place)
    return linked
