"""Where something is written: what may be there already, and how a disk that does not take it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acestep.errors import CheckpointError, InputError
from acestep.lora.locating import PEFT_WEIGHTS_FILE, WEIGHTS_FILE

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_output(output: Path, *, overwrite: bool) -> None:
    """InputError for a folder that is there already, and for what is no folder's name."""
    if output.suffix == ".safetensors":
        raise InputError(
            f"what is written is a folder, and {output.name} is a file's name; leave the ending out"
            " (`acestep lora convert` makes a single file of a folder)"
        )
    try:
        os.lstat(output)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"nothing can be written to {output} ({_reason(error)}); give another name") from error
    if not output.is_dir():
        raise InputError(f"{output} is a file; give a folder's name")
    if not overwrite and any(output.iterdir()):
        raise InputError(f"{output} is there already; give another name, or overwrite (--force) to replace it")


def is_adapter_folder(folder: Path) -> bool:
    """Whether it may be replaced by an adapter: it is empty, or what we write as one.

    A folder in which some other file of tensors lies may be somebody's whole collection.
    """
    names = (WEIGHTS_FILE, PEFT_WEIGHTS_FILE, f"{folder.name}.safetensors")
    return folder.is_dir() and (not any(folder.iterdir()) or any((folder / name).is_file() for name in names))


@contextmanager
def told_in_words(output: Path) -> Iterator[None]:
    """CheckpointError in place of OSError, with what to do where the disk is full."""
    try:
        yield
    except OSError as error:
        hint = "; is there room on the disk?" if error.errno in _FULL else ""
        raise CheckpointError(f"{output} could not be written: {_reason(error)}{hint}") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
