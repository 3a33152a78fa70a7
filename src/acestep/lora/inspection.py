"""What an adapter file is: family, base, producer, kind, ranks, strength, coverage, damage, and who reads it as it is.

The header says nearly all of it, so a file of any size is told in milliseconds; norms and NaN need its tensors.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from acestep.lora.adapter import gather, module_scale, strength_source
from acestep.lora.bases import base_shapes, fits, guess_base
from acestep.lora.factorisation import Kind, change_shape, kind_of
from acestep.lora.factors import Factors
from acestep.lora.keys import Role, naming_of
from acestep.lora.locating import PEFT_WEIGHTS_FILE, AdapterFiles, locate_adapter
from acestep.lora.metadata import HEADER_KEY, AdapterMetadata, metadata_from_header
from acestep.lora.strength import HEADER_KEY as STRENGTH_KEY
from acestep.lora.tensor_file import TensorFile, is_finite, open_tensor_file

# Groups of modules by a part of their names; the first that fits counts.
_GROUPS = {
    "lyric encoder": "lyric_",
    "cross attention": ".cross_attn.",
    "self attention": ".attn.",
    "feed-forward": ".ff.",
    "speaker": "speaker_embedder",
}
_OTHER_GROUP = "other"
_AS_TRAINED = 1e-6


@dataclass(frozen=True)
class ModuleInspection:
    """One module's change."""

    module: str
    kind: str
    rank: int | None
    alpha: float | None
    """As the file's own tensor has it; None where it has none."""
    scale: float
    """What the product is multiplied by to be as strong as in training."""
    shape: tuple[int, ...] | None
    """(out, in, ..) of the change; None where the tensors do not fit each other."""
    fits: bool | None
    """Whether the base's module has that shape; None where no base is known."""
    norm: float | None = None
    """||s B A||, where tensors were read and hold numbers."""


@dataclass(frozen=True)
class Reader:
    """A program that reads the file without conversion."""

    program: str
    note: str = ""
    """How it would sound there, where that is not as trained."""


@dataclass(frozen=True)
class Coverage:
    """How many of a base's modules a file changes."""

    group: str
    adapted: int
    there_are: int


@dataclass(frozen=True)
class Inspection:
    """All that is told of one file."""

    path: str
    file: str
    size_bytes: int
    base: str | None
    """The known base that it fits, or the one it was held against."""
    metadata: AdapterMetadata
    producer: str
    naming: str
    dtypes: tuple[str, ...]
    scale_source: str
    modules: tuple[ModuleInspection, ...]
    unmatched: tuple[str, ...]
    incomplete: tuple[str, ...]
    """Modules of which tensors are missing."""
    coverage: tuple[Coverage, ...]
    readers: tuple[Reader, ...]
    measured: bool
    """Whether tensors were read, for norms and NaN."""
    not_finite: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(module.kind for module in self.modules))

    @property
    def ranks(self) -> dict[int, int]:
        """How many modules have which rank."""
        return dict(Counter(module.rank for module in self.modules if module.rank is not None))

    @property
    def strengths(self) -> dict[float, int]:
        """How many modules have which scale."""
        return dict(Counter(round(module.scale, 6) for module in self.modules))

    @property
    def misshapen(self) -> tuple[str, ...]:
        return tuple(module.module for module in self.modules if module.fits is False or module.shape is None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in which a number that is none becomes null."""
        told: dict[str, Any] = _without_nan(self._told())
        return told

    def _told(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "file": self.file,
            "size_bytes": self.size_bytes,
            "base": self.base,
            "family": self.metadata.family,
            "producer": self.producer,
            "naming": self.naming,
            "kinds": list(self.kinds),
            "dtypes": list(self.dtypes),
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "strengths": {f"{scale:g}": count for scale, count in self.strengths.items()},
            "scale_source": self.scale_source,
            "modules": [vars(module) for module in self.modules],
            "coverage": [vars(part) for part in self.coverage],
            "unmatched": list(self.unmatched),
            "misshapen": list(self.misshapen),
            "incomplete": list(self.incomplete),
            "not_finite": list(self.not_finite) if self.measured else None,
            "readers": [vars(reader) for reader in self.readers],
            "metadata": self.metadata.model_dump(mode="json"),
        }


def inspect_adapter(path: str | Path, *, base: str | Path | None = None, measure: bool = True) -> Inspection:
    """Tell what a file, folder, hub id or official name is.

    base: as in `bases.base_shapes`; None finds it out. measure: read the tensors too, for norms and NaN; the rest comes
    from the header alone. Raises CheckpointError for a file that cannot be trusted; one that fits nothing is no error.
    """
    files = locate_adapter(path)
    file = open_tensor_file(files.weights)
    base = str(base) if base is not None else guess_base(file.entries)
    shapes = None if base is None else base_shapes(base)
    gathered, unmatched = gather(file.entries, shapes, path)
    strength = strength_source(path, files, file)
    # Alphas are single numbers, a few bytes each; everything else stays on the disk unless it is to be measured.
    alphas = file.read(
        keys["alpha"] for keys in gathered.values() if "alpha" in keys and file.entries[keys["alpha"]].numbers == 1
    )
    tensors = file.read() if measure else {}

    modules: list[ModuleInspection] = []
    incomplete: list[str] = []
    sources: dict[str, None] = {}
    for module, keys in gathered.items():
        sizes = {role: file.entries[key].shape for role, key in keys.items()}
        if (kind := kind_of(sizes)) is None:
            incomplete.append(module)
            continue
        alpha = alphas.get(keys.get("alpha", ""))
        scale, source = module_scale(module, kind, sizes, None if alpha is None else float(alpha), strength)
        sources[source] = None
        modules.append(
            ModuleInspection(
                module=module,
                kind=_kind_name(kind, sizes),
                rank=kind.rank(sizes),
                alpha=None if alpha is None else float(alpha),
                scale=scale,
                shape=change_shape(kind, sizes),
                fits=None if shapes is None else fits(sizes, shapes[module]),
                norm=_norm(kind, {role: tensors[key] for role, key in keys.items()}, scale) if measure else None,
            )
        )
    naming = naming_of(list(file.entries), shapes or ())
    return Inspection(
        path=str(path),
        file=str(files.weights),
        size_bytes=file.size,
        base=base,
        metadata=metadata_from_header(file.metadata),
        producer=_producer(file, files, naming),
        naming=naming,
        dtypes=tuple(sorted({entry.dtype for entry in file.entries.values()})),
        scale_source=", ".join(sorted(sources.keys() - {"none"})) or "none",
        modules=tuple(modules),
        unmatched=tuple(unmatched),
        incomplete=tuple(incomplete),
        coverage=_coverage([module.module for module in modules], shapes),
        readers=_readers(naming, modules, files, from_header="header" in sources),
        measured=measure,
        not_finite=tuple(k for k, tensor in tensors.items() if tensor.is_floating_point() and not is_finite(tensor)),
    )


def group_of(module: str) -> str:
    """The part of the model that a module belongs to, in words."""
    return next((group for group, mark in _GROUPS.items() if mark in f".{module}"), _OTHER_GROUP)


def _without_nan(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _without_nan(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_nan(inner) for inner in value]
    return value


def _kind_name(kind: Kind, sizes: Mapping[Role, Sequence[int]]) -> str:
    if not {"magnitude", "dora_scale"} & sizes.keys():
        return kind.name
    return "DoRA" if kind.name == "LoRA" else f"{kind.name} with magnitudes"


def _norm(kind: Kind, parts: Mapping[Role, Tensor], scale: float) -> float | None:
    try:
        factors: Factors = kind.factors({role: part.float() for role, part in parts.items()}, None)[0]
        norm = abs(scale) * factors.product_norm()
        return norm if math.isfinite(norm) else None
    except (RuntimeError, IndexError, ValueError):
        return None


def _coverage(adapted: Sequence[str], shapes: Mapping[str, Sequence[int]] | None) -> tuple[Coverage, ...]:
    here = Counter(group_of(module) for module in adapted)
    there = Counter(group_of(module) for module in shapes) if shapes is not None else here
    return tuple(
        Coverage(group, here[group], there[group]) for group in (*_GROUPS, _OTHER_GROUP) if here[group] or there[group]
    )


def _producer(file: TensorFile, files: AdapterFiles, naming: str) -> str:
    header = file.metadata
    if HEADER_KEY in header:
        return "AceSteps"
    if "ss_network_module" in header:
        return "LyCORIS" if "lycoris" in header["ss_network_module"] else "kohya's sd-scripts or musubi-tuner"
    if software := _software(header):
        return software
    if naming == "lycoris":
        return "LyCORIS"
    if naming == "peft" or files.weights.name == PEFT_WEIGHTS_FILE:
        return "PEFT"
    if STRENGTH_KEY in header:
        return "diffusers"
    if naming == "acestep" and files.config is None:
        return "ACE-Step's own trainer"
    return "unknown"


def _software(header: Mapping[str, str]) -> str | None:
    """Some trainers leave `software`, as JSON with a name in it or as plain text."""
    text = header.get("software", "")
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    name = found.get("name") if isinstance(found, dict) else found
    return str(name)[:80] if name else None


def _readers(
    naming: str, modules: Sequence[ModuleInspection], files: AdapterFiles, *, from_header: bool
) -> tuple[Reader, ...]:
    """Programs that know the file's names and kinds, and what they make of its strength."""
    if not any(module.fits is not False for module in modules):
        return ()
    kinds = {module.kind for module in modules}
    readers = [Reader("AceSteps")]
    # These take the product as it lies unless a tensor names an alpha; the official program passes over even that.
    without_alpha = _note([module.scale for module in modules])
    from_tensors = _note([module.scale for module in modules if module.alpha is None])
    simple = kinds <= {"LoRA", "DoRA"}
    if naming == "acestep" and kinds == {"LoRA"} and not any(module.alpha is not None for module in modules):
        readers.append(Reader("the official ACE-Step", without_alpha))
    if naming == "peft" and simple and files.config is not None:
        readers.append(Reader("PEFT"))
    if naming in ("diffusers", "acestep") and simple:
        readers.append(Reader("diffusers", "" if from_header else without_alpha))
    if naming in ("acestep", "comfyui", "kohya"):
        dora = "works out DoRA's norms in another way than its paper" if "DoRA" in kinds else ""
        readers.append(Reader("ComfyUI", "; ".join(filter(None, (from_tensors, dora)))))
    if naming == "kohya" and simple:
        readers.append(Reader("kohya's and musubi's programs", from_tensors))
    return tuple(readers)


def _note(scales: Sequence[float]) -> str:
    """What a program does that takes a scale of 1 where training had these."""
    off = sorted({round(scale, 4) for scale in scales if abs(scale - 1) > _AS_TRAINED})
    if not off:
        return ""
    return f"plays it at strength 1, trained was {', '.join(f'{scale:g}' for scale in off[:3])}"
