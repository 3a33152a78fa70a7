"""An adapter as data: low-rank factors by module name, read from and written to its folder.

Factors in memory and in files of ours have their scale in B, so the change to a weight is `B @ A` and nothing else.
That is what makes a file sound the same in every program (DESIGN.md, adapter folder).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from acestep.errors import AdapterError, CheckpointError
from acestep.lora.card import model_card
from acestep.lora.keys import Role, other_kind, parse_key, resolve_module
from acestep.lora.locating import CONFIG_FILE, WEIGHTS_FILE, locate_adapter
from acestep.lora.metadata import HEADER_KEY, AdapterMetadata, metadata_from_header
from acestep.lora.strength import HEADER_KEY as STRENGTH_KEY
from acestep.lora.strength import scale_of, settings_from_config, settings_from_header
from acestep.lora.whole_folder import written_whole

logger = logging.getLogger(__name__)


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
        ones = (1,) * (len(weight) - 2)
        shaped = tuple(self.a.shape) == (self.rank, *weight[1:])
        if self.magnitude is not None and tuple(self.magnitude.shape) != (weight[0],):
            return False
        return shaped and tuple(self.b.shape) == (weight[0], self.rank, *ones)

    def padded(self, rank: int) -> Factors:
        """Zeros up to `rank`; the product stays as it is."""
        more = rank - self.rank
        rows = (0, 0) * (self.a.dim() - 1) + (0, more)
        columns = (0, 0) * (self.b.dim() - 2) + (0, more)
        return Factors(pad(self.a, rows), pad(self.b, columns), self.magnitude)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """What is added to the weight, in the weight's shape; for DoRA that depends on the weight."""
        product: Tensor = (self.b.flatten(1) @ self.a.flatten(1)).view(self.delta_shape())
        if self.magnitude is None:
            return product
        if weight is None:
            raise AdapterError("what a DoRA changes depends on the base's weights; give the base to work it out")
        changed = weight.to(product) + product
        gains = self.magnitude / changed.flatten(1).norm(dim=1)
        delta: Tensor = changed * gains.view(-1, *(1 for _ in changed.shape[1:])) - weight
        return delta

    def delta_shape(self) -> tuple[int, ...]:
        return (*self.b.shape[:1], *self.a.shape[1:])


@dataclass(frozen=True)
class ReadingReport:
    """What became of a file's tensors, and where its strength came from."""

    matched: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    scale_source: str = "none"


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


def read_adapter(
    path: str | Path, module_shapes: Mapping[str, Sequence[int]] | None = None, *, raw_scale: bool = False
) -> Adapter:
    """Read a file, folder or hub id; factors come as float32, with the scale that the file names in B.

    module_shapes: weight shapes by module name, from `attach.module_shapes(network)`; without it every module is taken.
    raw_scale: leave the factors as they lie, as the official v1 program plays them.
    Raises CheckpointError for what cannot be read (pickles are refused), AdapterError where nothing fits the model.
    """
    files = locate_adapter(path)
    header, tensors = _load(files.weights)
    if kind := other_kind(tensors):
        raise AdapterError(f"{path} is a {kind}; only plain LoRA factors can be read")
    gathered, unmatched = _gather(tensors, module_shapes, path)
    settings = settings_from_header(header)
    source = "header"
    if settings is None and files.config is not None:
        settings, source = settings_from_config(_read_json(files.config)), "adapter_config.json"

    factors: dict[str, Factors] = {}
    misshapen: list[str] = []
    used: set[str] = set()
    for module, parts in gathered.items():
        if "A" not in parts or "B" not in parts:
            unmatched += [f"{module}.{role}" for role in parts]
            continue
        magnitude = parts["magnitude"].float().flatten() if "magnitude" in parts else None
        found = Factors(parts["A"].float(), parts["B"].float(), magnitude)
        if not found.fits(found.delta_shape() if module_shapes is None else module_shapes[module]):
            misshapen.append(f"{module}: A {tuple(found.a.shape)}, B {tuple(found.b.shape)}")
            continue
        scale = 1.0
        if "alpha" in parts:
            scale = scale_of(float(parts["alpha"]), found.rank, rslora=settings is not None and settings.rslora)
            used.add("alpha tensors")
        elif settings is not None:
            scale = settings.scale(module, found.rank)
            used.add(source)
        factors[module] = found if raw_scale or scale == 1.0 else replace(found, b=found.b * scale)
    report = ReadingReport(tuple(factors), tuple(unmatched), tuple(misshapen), ", ".join(sorted(used)) or "none")
    _check(path, report, raw_scale=raw_scale)
    return Adapter(factors, metadata_from_header(header), report)


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
    if adapter.is_dora and (plain := [name for name, own in adapter.factors.items() if own.magnitude is None]):
        raise AdapterError(
            f"some modules are DoRA and {_some(plain)} are not, which no program reads; write two adapters"
        )
    if folder.exists() and not _may_replace(folder):
        raise AdapterError(f"{folder} holds something that is no adapter; give another name, or move it away")
    rank = adapter.rank
    tensors: dict[str, Tensor] = {}
    for module, factors in adapter.factors.items():
        padded = factors.padded(rank)
        parts = {"lora_A.weight": padded.a, "lora_B.weight": padded.b}
        if factors.magnitude is not None:
            # PEFT keeps a convolution's magnitudes along its channels.
            parts["lora_magnitude_vector"] = factors.magnitude.view(
                -1 if padded.a.dim() == 2 else (1, -1, *padded.b.shape[2:])
            )
        for part, tensor in parts.items():
            tensors[f"{module}.{part}"] = tensor.detach().to("cpu", dtype).contiguous()
    config = peft_config(adapter)
    header = {
        "format": "pt",
        STRENGTH_KEY: json.dumps(config),
        HEADER_KEY: adapter.metadata.model_dump_json(),
    }
    card = model_card(title or folder.name, adapter.metadata, modules=len(adapter.factors), rank=rank, prompts=prompts)
    with written_whole(folder) as partial:
        save_file(tensors, partial / WEIGHTS_FILE, metadata=header)
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
    return folder


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """PEFT's config, true for the factors as they are written: alpha is the rank, so every reader's scale is 1."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.metadata.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapter.factors),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": adapter.is_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite, in {_some(broken)}")
    return header, tensors


def _gather(
    tensors: Mapping[str, Tensor], known: Mapping[str, Sequence[int]] | None, path: str | Path
) -> tuple[dict[str, dict[Role, Tensor]], list[str]]:
    """Tensors by module and role, and the keys that belong to no module of the model."""
    gathered: dict[str, dict[Role, Tensor]] = {}
    unmatched: list[str] = []
    for key, tensor in tensors.items():
        parsed = parse_key(key)
        module = None if parsed is None else resolve_module(parsed[0], known)
        if parsed is None or module is None:
            unmatched.append(key)
            continue
        parts = gathered.setdefault(module, {})
        if parsed[1] in parts:
            raise CheckpointError(f"{path} holds two {parsed[1]} tensors for {module}; keep one adapter a file")
        parts[parsed[1]] = tensor
    return gathered, unmatched


def _check(path: str | Path, report: ReadingReport, *, raw_scale: bool) -> None:
    if not report.matched:
        raise AdapterError(
            f"nothing in {path} fits this model: {len(report.unmatched)} keys match no module"
            f" ({_some(report.unmatched)}), {len(report.misshapen)} have another shape ({_some(report.misshapen)});"
            " was it made for another base model?"
        )
    if report.unmatched:
        logger.warning("%s: %d keys match no module: %s", path, len(report.unmatched), _some(report.unmatched))
    if report.misshapen:
        logger.warning("%s: %d modules have another shape: %s", path, len(report.misshapen), _some(report.misshapen))
    if report.scale_source == "none" and not raw_scale:
        logger.warning("%s names no alpha; its factors are taken as they lie (scale 1.0)", path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and ((folder / WEIGHTS_FILE).exists() or not any(folder.iterdir()))


def _some(names: Sequence[str], shown: int = 5) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest if names else "none"
