"""How strong an adapter was when it was trained: the scale that its factors are to be multiplied by.

scale = alpha / rank (Hu et al. 2021, arXiv:2106.09685), or alpha / sqrt(rank) with rank-stabilised LoRA (Kalajdzievski
2023, arXiv:2312.03732). Where a file names no alpha the factors are taken as they lie.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acestep.errors import CheckpointError

HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's config, as JSON, in a safetensors header."""


@dataclass(frozen=True)
class StrengthSettings:
    """What a PEFT config says about strength; patterns name modules, or the ends of their names."""

    rank: int
    alpha: float
    rslora: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def scale(self, module: str, rank: int) -> float:
        """For one module, whose tensors have `rank`; the tensors know better than the config's rank_pattern."""
        matches = (alpha for pattern, alpha in self.alpha_pattern.items() if names_module(pattern, module))
        return scale_of(next(matches, self.alpha), rank, rslora=self.rslora)


def scale_of(alpha: float, rank: int, *, rslora: bool) -> float:
    return alpha / (math.sqrt(rank) if rslora else rank)


def settings_from_header(header: Mapping[str, str]) -> StrengthSettings | None:
    """From a safetensors header; None where it says nothing about strength."""
    if HEADER_KEY not in header:
        return None
    try:
        values = json.loads(header[HEADER_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header's {HEADER_KEY} is no JSON ({error}); the strength cannot be told") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the header's {HEADER_KEY} is a {type(values).__name__}, not a mapping")
    # diffusers writes one config a component, every name behind the component's own.
    return settings_from_config({str(name).removeprefix("transformer."): value for name, value in values.items()})


def settings_from_config(values: Mapping[str, Any]) -> StrengthSettings | None:
    """From the names and values of a PEFT config; None where it gives no alpha."""
    if values.get("lora_alpha") is None:
        return None
    try:
        return StrengthSettings(
            rank=int(values.get("r") or 0),
            alpha=_positive(values["lora_alpha"]),
            rslora=bool(values.get("use_rslora")),
            alpha_pattern={str(k): _positive(v) for k, v in (values.get("alpha_pattern") or {}).items()},
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the adapter's config has no usable rank and alpha: {error}") from error


def names_module(pattern: str, module: str) -> bool:
    """Whether a pattern of PEFT's names a module: all of it after `^`, its end otherwise.

    PEFT takes patterns for regular expressions. Files come from strangers and a regular expression can be made to run
    for hours, so only those that spell a name are followed; others are refused rather than guessed at.
    """
    name = pattern.removeprefix("^").removesuffix("$").replace("\\", "")
    if not re.fullmatch(r"[\w.-]+", name):
        raise CheckpointError(f"the pattern {pattern!r} in the adapter's config is not a module's name")
    return module == name or (not pattern.startswith("^") and module.endswith(f".{name}"))


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"alpha is {value!r}, expected a number above 0")
    return number
