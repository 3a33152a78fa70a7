"""Folders that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes `folder`'s name when the block ends, and vanishes when the block raises.

    A folder that is there already is replaced. It steps aside by a rename and is deleted last, so a reader meets the
    old one, for a moment none, or the new one, and never half of either. What a killed writer of the same folder left
    is deleted first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    partial, lock = _new_partial(folder)
    try:
        yield partial
        _take_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _take_place(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    aside = partial.with_suffix(".replaced")
    folder.rename(aside)
    try:
        partial.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _new_partial(folder: Path) -> tuple[Path, int | None]:
    """A folder under another name, held where folders can be."""
    while True:
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
        partial.mkdir()
        lock = _hold(partial, wait=True)
        # A sweeper may have come in between and taken it away.
        if partial.exists():
            return partial, lock
        if lock is not None:
            os.close(lock)


def _sweep(folder: Path) -> None:
    """Delete unfinished folders that nobody is writing: a process that is killed lets go of its own."""
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.{'[0-9a-f]' * 8}{_PARTIAL}"):
        if (lock := _hold(left, wait=False)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _hold(folder: Path, *, wait: bool) -> int | None:
    """Hold a folder until the descriptor is closed or this process ends; None where another holds it, or nobody can.

    Windows opens no folders, and some network disks lock none: nothing is swept there.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor
