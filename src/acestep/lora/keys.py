"""Names inside adapter files: which module a tensor belongs to and which factor it is.

A name is matched against the model's own module names, never taken apart at underscores, so that no pattern can land on
the wrong module.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

Role = Literal["A", "B", "alpha", "magnitude"]

# What programs put before a module's name. PEFT's prefix is sometimes there twice, diffusers' comes after it.
_PREFIXES = ("base_model.model.", "transformer.")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_ALPHA = re.compile(r"(?P<module>.+)\.alpha")
_MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(?:\.[^.]+)??(?:\.weight)?")
_OTHER_KINDS = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
}


def parse_key(key: str) -> tuple[str, Role] | None:
    """(module name as the file has it, role); None for a key of another pattern.

    An adapter's own name between the factor and `weight` (`lora_A.default.weight`) is skipped.
    """
    if factor := _FACTOR.fullmatch(key):
        return factor["module"], "A" if factor["side"] == "A" else "B"
    if magnitude := _MAGNITUDE.fullmatch(key):
        return magnitude["module"], "magnitude"
    if alpha := _ALPHA.fullmatch(key):
        return alpha["module"], "alpha"
    return None


def resolve_module(name: str, known: Collection[str] | None) -> str | None:
    """The model's own name for a module; None where it has no such module. Without known names, prefixes come off."""
    while known is None or name not in known:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return name if known is None else None
        name = name.removeprefix(prefix)
    return name


def other_kind(keys: Collection[str]) -> str | None:
    """The kind of adapter, if the keys tell that it is no plain LoRA."""
    return next((kind for mark, kind in _OTHER_KINDS.items() if any(mark in key for key in keys)), None)
