"""Where an adapter comes from: what it was merged from, and what those were, back to what was trained.

The tree is in the file's own header (metadata.py), so no parent has to be at hand. Every node knows its file's sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from acestep.lora.locating import PEFT_WEIGHTS_FILE, WEIGHTS_FILE, locate_adapter
from acestep.lora.metadata import AdapterMetadata, Parent, metadata_from_header
from acestep.lora.tensor_file import open_tensor_file

_RESULT = "adapter"
"""The folder in which a training run leaves what it made (DESIGN.md, run folder)."""
_DEEPEST = 60
"""Generations: pydantic reads JSON of up to 200 levels, and each generation takes two."""


def lineage(path: str | Path) -> Parent:
    """The adapter itself, of weight 1, with its parents below it. Reads the header, and the file once for its sha256.

    Raises what `locate_adapter` and `open_tensor_file` raise.
    """
    weights = locate_adapter(path).weights
    own = metadata_from_header(open_tensor_file(weights).metadata)
    return as_parent(own, name=name_of(path), sha256=sha256_of(weights))


def as_parent(metadata: AdapterMetadata, *, name: str, sha256: str, weight: float = 1.0) -> Parent:
    """An adapter as it stands in the lineage of what is made from it."""
    return Parent(
        sha256=sha256,
        name=name,
        weight=weight,
        method=metadata.method,
        options=metadata.options,
        parents=metadata.parents,
    )


def told_once(parents: Sequence[Parent]) -> tuple[Parent, ...]:
    """The same tree, with what is below a file only at its first place, going down the branches in order.

    Files that are merged with each other over and over would else double the header each time, beyond what readers
    take after some sixteen generations. What lies deeper than readers of nested JSON go is left out.
    """
    told: set[str] = set()

    def once(node: Parent, depth: int) -> Parent:
        if node.sha256 in told or depth >= _DEEPEST:
            return node.model_copy(update={"parents": ()})
        if node.parents:
            told.add(node.sha256)
        return node.model_copy(update={"parents": tuple(once(parent, depth + 1) for parent in node.parents)})

    return tuple(once(parent, 1) for parent in parents)


def ancestors(node: Parent) -> Iterator[Parent]:
    """Everything below a node, parents before theirs."""
    for parent in node.parents:
        yield parent
        yield from ancestors(parent)


def name_of(path: str | Path) -> str:
    """What to call an adapter: its folder's name, its file's, or the hub id or official name that it was asked by.

    A run's result is called as the run: its folder has the same name in all of them.
    """
    place = Path(path)
    if not place.exists():
        return str(path)
    place = place.resolve()
    if place.name in (WEIGHTS_FILE, PEFT_WEIGHTS_FILE):
        place = place.parent
    if place.is_dir() and place.name == _RESULT:
        place = place.parent
    return place.name if place.is_dir() else place.stem


def distinct_names(paths: Sequence[str | Path]) -> list[str]:
    """`name_of` each, in their order; those that are alike are numbered from the second on."""
    names: list[str] = []
    for path in paths:
        own = name = name_of(path)
        number = 1
        while name in names:
            number += 1
            name = f"{own} ({number})"
        names.append(name)
    return names


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
