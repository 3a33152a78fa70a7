"""One process at a time in a folder: a lock that the operating system holds, so that kill -9 gives it back too.

flock on POSIX, which holds over NFS as well; a byte range on Windows. The file says who holds it, for people, and goes
when the lock does. A child that was forked inside the block and outlives a killed holder keeps the lock until it ends.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from acestep.errors import TrainingError

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt

    # Far behind what is written, because on Windows nobody else could read a locked byte.
    _BYTE = 1 << 20

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    def _is_locked(descriptor: int) -> bool:
        # There is no looking without taking, and the file's holder removes it.
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _is_locked(descriptor: int) -> bool:
        try:
            # Shared, so that two who look at once do not take each other for the holder.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


@contextmanager
def folder_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block; its folder must be there.

    TrainingError where somebody holds it, this process included, with who that is; OSError where the file cannot be
    written. On a file system without locks a warning is logged and the block runs.
    """
    descriptor = _taken(path)
    try:
        yield
    finally:
        _give_back(descriptor, path)


def is_held(path: Path) -> bool:
    """Whether a run holds the lock file `path`; True where that cannot be told, as on a file system without locks."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock_or_refuse(descriptor, path)
            # Between opening and locking its last holder may have removed it; then the name is free for a third.
            if _is_at(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_or_refuse(descriptor: int, path: Path) -> None:
    try:
        _lock(descriptor)
    except BlockingIOError:
        raise TrainingError(
            f"{path.parent} is in use: {_holder(path)} trains in it; wait for that run or stop it, or give another"
            " output_dir"
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): do not start a second run in it", path.parent, error)


def _give_back(descriptor: int, path: Path) -> None:
    # Removed while it is still ours, so that nobody can be holding what is removed.
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        _unlock(descriptor)
    os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now})
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def _holder(path: Path) -> str:
    try:
        signed = json.loads(path.read_text(encoding="utf-8"))
        return f"process {signed['pid']} on {signed['host']}, since {signed['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
