"""The adapters that go into a merge: read, named, and held against each other before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import AdapterError, InputError
from acestep.lora.adapter import read_adapter
from acestep.lora.bases import ModuleShapes, base_shapes, guess_base
from acestep.lora.factors import Adapter
from acestep.lora.lineage import as_parent, distinct_names, sha256_of
from acestep.lora.locating import locate_adapter
from acestep.lora.metadata import Parent
from acestep.lora.tensor_file import open_tensor_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One adapter of a merge."""

    name: str
    path: str
    sha256: str
    weight: float
    adapter: Adapter

    def as_parent(self) -> Parent:
        """For the lineage of what is made from it."""
        return as_parent(self.adapter.metadata, name=self.name, sha256=self.sha256, weight=self.weight)


@dataclass(frozen=True)
class Sources:
    """All of them, what base they are for, and what is worth knowing before they are merged."""

    adapters: tuple[Source, ...]
    base: str | None
    """A known base, or the one that was named; None where neither."""
    shapes: ModuleShapes | None
    warnings: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module that one of them changes, in the base's order where that is known."""
        changed = {module: None for source in self.adapters for module in source.adapter.factors}
        return tuple(changed if self.shapes is None else (name for name in self.shapes if name in changed))


def read_sources(loras: Sequence[tuple[str | Path, float]], *, base: str | Path | None = None) -> Sources:
    """Read adapters that fit one base. base: as in `bases.base_shapes`; None finds it out from the files.

    Raises AdapterError for adapters of different families or shapes, with their names, and for DoRA, whose change is of
    no low rank; warns of different fingerprints of one family.
    """
    bases = {str(path): _base_of(path) if base is None else str(base) for path, _ in loras}
    if len(found := set(bases.values())) > 1:
        raise AdapterError(
            f"these adapters are for different bases: {_listed(bases)}; only those for one can be merged"
        )
    known = next(iter(found), None)
    shapes = None if known is None else base_shapes(known)
    names = distinct_names([path for path, _ in loras])
    adapters = tuple(_read(path, weight, name, shapes) for (path, weight), name in zip(loras, names, strict=True))
    _check_families(adapters)
    _check_shapes(adapters)
    warnings = tuple(_differing_fingerprints(adapters))
    for warning in warnings:
        logger.warning("%s", warning)
    return Sources(adapters, known, shapes, warnings)


def require_no_dora(name: str, adapter: Adapter) -> None:
    """AdapterError says what to do with one instead."""
    if adapter.is_dora:
        raise AdapterError(
            f"{name} is a DoRA, whose change depends on the base's weights and is of no low rank, so it cannot be"
            " merged as one; fold it into a checkpoint with `acestep lora bake`, and get a LoRA out of that"
            " with `acestep lora extract`"
        )


def _base_of(path: str | Path) -> str | None:
    return guess_base(open_tensor_file(locate_adapter(path).weights).entries)


def _read(path: str | Path, weight: float, name: str, shapes: ModuleShapes | None) -> Source:
    files = locate_adapter(path)
    adapter = read_adapter(path, shapes)
    require_no_dora(name, adapter)
    return Source(name, str(path), sha256_of(files.weights), float(weight), adapter)


def _check_families(sources: Sequence[Source]) -> None:
    families = {source.name: source.adapter.metadata.family for source in sources if source.adapter.metadata.family}
    if len(set(families.values())) > 1:
        raise AdapterError(
            f"these adapters are for different families: {_listed(families)}; only those for one can be merged"
        )


def _check_shapes(sources: Sequence[Source]) -> None:
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for source in sources:
        for module, factors in source.adapter.factors.items():
            name, shape = first.setdefault(module, (source.name, factors.delta_shape()))
            if shape != factors.delta_shape():
                raise AdapterError(
                    f"{module} is {list(shape)} in {name} and {list(factors.delta_shape())} in {source.name}:"
                    " they are for different bases"
                )


def _differing_fingerprints(sources: Sequence[Source]) -> list[str]:
    prints = {source.name: source.adapter.metadata.base_fingerprint for source in sources}
    known = {name: value[:12] for name, value in prints.items() if value}
    if len(set(known.values())) < 2:
        return []
    return [
        f"these adapters were trained on different weights of one family: {_listed(known)};"
        " the merge may sound unlike either"
    ]


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} ({value or 'unknown'})" for name, value in values.items())


def checked_loras(loras: Sequence[tuple[str | Path, float]]) -> list[tuple[str | Path, float]]:
    """InputError for what is no list of pairs."""
    pairs = []
    for pair in loras:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str | Path):
            raise InputError(f"{pair!r} is no adapter with a weight; write (path, weight), as in ('./vocal', 0.7)")
        pairs.append((pair[0], pair[1]))
    return pairs
