"""Reading and writing adapters: every format in the wild comes in as factors, the adapter folder goes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.errors import AdapterError, CheckpointError
from acestep.lora.bases import guess_base
from acestep.lora.card import model_card
from acestep.lora.catalogue import trained_strength
from acestep.lora.factorisation import Kind, change_shape, kind_of, magnitude_of, shaped_like
from acestep.lora.factors import Adapter, Factors, ReadingReport
from acestep.lora.formats import ACESTEP, save_adapter_file
from acestep.lora.keys import ModuleNames, Role, other_kind, parse_key, without_prefixes
from acestep.lora.locating import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, locate_adapter
from acestep.lora.metadata import metadata_from_header
from acestep.lora.output import is_adapter_folder
from acestep.lora.strength import StrengthSettings, scale_of, settings_from_config, settings_from_header
from acestep.lora.tensor_file import TensorFile, open_tensor_file, require_finite
from acestep.lora.whole_folder import written_whole
from acestep.wording import names_text

__all__ = ["Adapter", "Factors", "ReadingReport", "read_adapter", "write_adapter"]

logger = logging.getLogger(__name__)

_MANY_NUMBERS = 500_000_000
"""Twice the released rap LoRA's, of rank 256: LoKr of whole matrices becomes factors of full rank."""
_MAX_SCALE = 1e6
"""Real ones lie between a hundredth and a hundred."""
_WIDEST = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class StrengthSource:
    """What a file, its folder or the catalogue say about strength, and which of them."""

    settings: StrengthSettings | None
    name: str


def read_adapter(
    path: str | Path,
    module_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    raw_scale: bool = False,
    rank: int | None = None,
) -> Adapter:
    """Read a file, folder, hub id or official name; factors come as float32, with the scale that the file names in B.

    module_shapes: weight shapes by module name, from `attach.module_shapes(network)`; without it every module is taken
    that needs no table to be told. raw_scale: leave the factors as they lie, as the official v1 program plays them.
    rank: the most that a module may have; the report says what that cost. LoHa and LoKr become factors exactly without.
    Raises CheckpointError for what cannot be read (pickles are refused), AdapterError where nothing fits the model.
    """
    files = locate_adapter(path)
    file = open_tensor_file(files.weights)
    gathered, unmatched = gather(file.entries, module_shapes, path)
    strength = strength_source(path, files, file)
    tensors = file.read(key for parts in gathered.values() for key in parts.values())
    require_finite(files.weights, tensors)

    factors: dict[str, Factors] = {}
    misshapen: list[str] = []
    kinds: dict[str, None] = {}
    scales: dict[str, float] = {}
    lost: dict[str, float] = {}
    used: dict[str, None] = {}
    for module, keys in gathered.items():
        parts = {role: tensors[key] for role, key in keys.items()}
        if (kind := kind_of(parts)) is None:
            unmatched += keys.values()
            continue
        found = _factors(kind, parts, None if module_shapes is None else module_shapes[module], rank)
        if found is None:
            misshapen.append(f"{module}: " + ", ".join(f"{role} {tuple(part.shape)}" for role, part in parts.items()))
            continue
        sizes = {role: part.shape for role, part in parts.items()}
        alpha = None if "alpha" not in parts else _one_number(parts["alpha"], module)
        scale, source = module_scale(module, kind, sizes, alpha, strength)
        factors[module] = found[0] if raw_scale else found[0].scaled(scale)
        scales[module] = scale
        kinds["DoRA" if found[0].magnitude is not None and kind.name == "LoRA" else kind.name] = None
        used[source] = None
        lost |= {module: found[1]} if found[1] else {}
    report = ReadingReport(
        matched=tuple(factors),
        unmatched=tuple(unmatched),
        misshapen=tuple(misshapen),
        scale_source=", ".join(sorted(used.keys() - {"none"})) or "none",
        scales=scales,
        kinds=tuple(kinds),
        dtype=_widest(
            tensors[key].dtype for keys in gathered.values() for role, key in keys.items() if role != "alpha"
        ),
        lost=lost,
    )
    if not factors:
        raise AdapterError(_fits_nothing(path, report, guess_base(file.entries)))
    numbers = sum(found.a.numel() + found.b.numel() for found in factors.values())
    _warn(path, report, numbers, raw_scale=raw_scale)
    return Adapter(factors, metadata_from_header(file.metadata), report)


def gather(
    keys: Collection[str], known: Collection[str] | None, path: str | Path
) -> tuple[dict[str, dict[Role, str]], list[str]]:
    """Keys by module and role, and those that belong to no module of the model.

    Raises CheckpointError for two adapters in one file, AdapterError for a kind that cannot be read.
    """
    if kind := other_kind(keys):
        raise AdapterError(f"{path} is a {kind}; LoRA, DoRA, LoHa and LoKr can be read")
    names = None if known is None else ModuleNames(known)
    gathered: dict[str, dict[Role, str]] = {}
    unmatched: list[str] = []
    for key in keys:
        parsed = parse_key(key)
        module = None
        if parsed is not None:
            module = without_prefixes(parsed[0]) if names is None else names.resolve(parsed[0])
        if parsed is None or module is None:
            unmatched.append(key)
            continue
        parts = gathered.setdefault(module, {})
        if parsed[1] in parts:
            raise CheckpointError(f"{path} holds two {parsed[1]} tensors for {module}; keep one adapter a file")
        parts[parsed[1]] = key
    return gathered, unmatched


def strength_source(path: str | Path, files: AdapterFiles, file: TensorFile) -> StrengthSource:
    """The header first, then adapter_config.json, then what the catalogue knows of a released one."""
    if (settings := settings_from_header(file.metadata)) is not None:
        return StrengthSource(settings, "header")
    if files.config is not None and (settings := settings_from_config(_read_json(files.config))) is not None:
        return StrengthSource(settings, CONFIG_FILE)
    if (settings := trained_strength(path)) is not None:
        return StrengthSource(settings, "catalogue")
    return StrengthSource(None, "none")


def module_scale(
    module: str, kind: Kind, sizes: Mapping[Role, Sequence[int]], alpha: float | None, strength: StrengthSource
) -> tuple[float, str]:
    """What the product is multiplied by, and who says so. alpha: the file's own tensor, which goes before all else."""
    rank = kind.rank(sizes)
    if not rank:
        return 1.0, "none"
    settings = strength.settings
    scale, source = 1.0, "none"
    if alpha is not None:
        scale, source = scale_of(alpha, rank, rslora=settings is not None and settings.rslora), "alpha tensors"
    elif settings is not None:
        scale, source = settings.scale(module, rank), strength.name
    if not abs(scale) <= _MAX_SCALE:
        raise CheckpointError(f"the strength of {module} would be {scale:g} by its {source}; that cannot be meant")
    return scale, source


def write_adapter(
    folder: str | Path,
    adapter: Adapter,
    *,
    dtype: torch.dtype | None = None,
    title: str | None = None,
    prompts: Sequence[str] = (),
) -> Path:
    """Write the adapter folder, whole or not at all; an adapter folder of that name is replaced, any other refused.

    All modules get one rank, since programs disagree about rank patterns. dtype: None keeps the factors' own.
    """
    folder = Path(folder)
    if not adapter.factors:
        raise AdapterError(f"the adapter for {folder} has no factors, so there is nothing to write")
    if folder.exists() and not is_adapter_folder(folder):
        raise AdapterError(f"{folder} holds something that is no adapter; give another name, or move it away")
    card = model_card(
        title or folder.name, adapter.metadata, modules=len(adapter.factors), rank=adapter.rank, prompts=prompts
    )
    with written_whole(folder) as partial:
        save_adapter_file(partial / WEIGHTS_FILE, adapter, ACESTEP, dtype=dtype)
        (partial / "README.md").write_text(card, encoding="utf-8")
    return folder


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The floating dtype of most digits; float32 where there is none that training uses."""
    found = set(dtypes)
    return next((dtype for dtype in _WIDEST if dtype in found), torch.float32)


def _factors(
    kind: Kind, parts: Mapping[Role, Tensor], shape: Sequence[int] | None, rank: int | None
) -> tuple[Factors, float] | None:
    """Factors without the scale, and what the rank cost; None where the tensors do not fit each other or the module."""
    if change_shape(kind, {role: part.shape for role, part in parts.items()}) is None:
        return None
    try:
        found, lost = kind.factors({role: part.float() for role, part in parts.items()}, rank)
        expected = found.delta_shape() if shape is None else tuple(shape)
        found = shaped_like(found, expected)
        found = replace(found, magnitude=magnitude_of(parts, expected[0]))
    except (RuntimeError, IndexError, ValueError):
        return None
    return (found, lost) if found.fits(expected) else None


def _one_number(alpha: Tensor, module: str) -> float:
    if alpha.numel() != 1:
        raise CheckpointError(f"the alpha of {module} has {alpha.numel()} numbers, expected one")
    return float(alpha)


def _fits_nothing(path: str | Path, report: ReadingReport, base: str | None) -> str:
    return (
        f"nothing in {path} fits this model: {len(report.unmatched)} keys match no module"
        f" ({names_text(report.unmatched)}), {len(report.misshapen)} have another shape"
        f" ({names_text(report.misshapen)});"
        + (f" it was made for {base}" if base else " was it made for another base model?")
    )


def _warn(path: str | Path, report: ReadingReport, numbers: int, *, raw_scale: bool) -> None:
    if report.unmatched:
        logger.warning("%s: %d keys match no module: %s", path, len(report.unmatched), names_text(report.unmatched))
    if report.misshapen:
        logger.warning(
            "%s: %d modules have another shape: %s", path, len(report.misshapen), names_text(report.misshapen)
        )
    if numbers > _MANY_NUMBERS:
        logger.warning(
            "%s takes %.1f GB as low-rank factors; `acestep lora convert --rank N` makes it smaller and tells the cost",
            path,
            numbers * 4e-9,
        )
    if report.scale_source == "none" and not raw_scale:
        logger.warning("%s names no alpha; its factors are taken as they lie (scale 1.0)", path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values
