"""What may be asked of those that write an adapter: dtypes, ranks, and numbers that can be meant."""

from __future__ import annotations

import math

import torch

from acestep.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LARGEST = 1e6
"""Weights and options lie about 1; far beyond this float32 has no number for what they make."""


def is_number(value: object) -> bool:
    """Whether it is a number that can be meant: no bool, no NaN, and not beyond `LARGEST`."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value) and abs(value) <= LARGEST  # type: ignore[arg-type]


def checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """By name or as it is; InputError for one that adapters are not written in."""
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and chosen not in DTYPES.values():
        raise InputError(f"{dtype} is no dtype for this; choose one of {', '.join(DTYPES)}")
    return chosen


def check_rank(rank: object) -> None:
    """InputError for what is neither a number from 1 up, nor "auto", "full" or None."""
    is_number = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if not (is_number or rank in (None, "auto", "full")):
        raise InputError(f"rank is {rank!r}; give a number from 1 up, 'auto' or 'full'")
