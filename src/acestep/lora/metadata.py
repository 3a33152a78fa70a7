"""What an adapter file says about itself beside its factors: how it was trained, for which base, from which parents."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError

HEADER_KEY = "acestep_adapter"
FORMAT = "acestep-lora-1"


class TrainedWith(BaseModel, frozen=True):
    """Rank and strength in training; what the file holds has the scale in B already."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    rslora: bool = False
    dora: bool = False
    ranks: dict[str, int] = {}
    """Of modules that had another rank, by whole names."""
    alphas: dict[str, float] = {}


class Parent(BaseModel, frozen=True):
    """An adapter that this one was made from, how that was made, and what from."""

    sha256: str
    name: str = ""
    weight: float = 1.0
    method: str = ""
    options: dict[str, Any] = {}
    parents: tuple[Parent, ...] = ()


class AdapterMetadata(BaseModel, frozen=True):
    """Unknown names are kept out and not refused: a newer program may have written more."""

    format: str = FORMAT
    trained: TrainedWith | None = None
    family: str | None = None
    """The family's name, such as "v1"."""
    base_model: str | None = None
    """Where the base came from: a hub id, or a folder's name."""
    base_fingerprint: str | None = None
    training_config_sha256: str | None = None
    recommended_strength: float = 1.0
    parents: tuple[Parent, ...] = ()
    method: str = "trained"
    """How it was made: "trained", or a merge's name."""
    options: dict[str, Any] = {}
    """Of the merge: what would have to be given to make it again."""


def metadata_from_header(header: dict[str, str]) -> AdapterMetadata:
    """Empty for a file of another program, or one whose record cannot be read."""
    try:
        return AdapterMetadata.model_validate_json(header.get(HEADER_KEY, "{}"))
    except ValidationError:
        return AdapterMetadata()
