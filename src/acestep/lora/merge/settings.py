"""What may be asked of those that write an adapter: dtypes, ranks, and where it may lie."""

from __future__ import annotations

from pathlib import Path

import torch

from acestep.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def check_output(output: Path, *, overwrite: bool) -> None:
    """InputError for a folder that is there already, and for what is no folder's name."""
    if output.suffix == ".safetensors":
        raise InputError(
            f"what is written is a folder, and {output.name} is a file's name; leave the ending out"
            " (`acestep lora convert` makes a single file of a folder)"
        )
    if output.is_file():
        raise InputError(f"{output} is a file; give a folder's name")
    if output.exists() and not overwrite and any(output.iterdir()):
        raise InputError(f"{output} is there already; give another name, or overwrite (--force) to replace it")
