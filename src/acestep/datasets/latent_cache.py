"""A cache of tensors under names made from their content's origin; entries appear whole or not at all.

Runs may share one cache at once. An entry that is being made is claimed by a locked file beside it, so that the others
need not make it too; the lock goes with its process, however that ends. Claims only save work: where a file system
knows no locks both runs write what both computed, and the later rename replaces equal with equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: no claims
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LEFTOVER_S = 3600.0
"""Half-written files this old are of runs that were killed: writing one takes seconds."""


class CacheWriteError(OSError):
    """The cache has no room, or may not be written to."""


class Claim:
    """The right to make one entry, until it is released or the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """May be called twice."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # While it is still locked, or another's new claim could be taken away.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


class LatentCache:
    """Entries below `root`, one safetensors file each, by kind and by a key of their origin."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, **origin: str | int | float) -> Path:
        """Where the entry made from that origin lies, whether or not it is there."""
        key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        return self.root / kind / key[:2] / f"{key}.safetensors"

    def shapes(self, path: Path) -> dict[str, tuple[int, ...]] | None:
        """Shapes of an entry's tensors, without reading them; None where it is absent or damaged."""
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            logger.warning("%s is damaged (%s) and is made again", path, error)
            return None

    def store(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry whole or not at all; CacheWriteError where there is no room or no right to."""
        partial = path.with_name(f"{path.stem[:16]}.{uuid.uuid4().hex[:8]}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
            _flush(partial)
            partial.replace(path)
        except (SafetensorError, OSError) as error:
            raise CacheWriteError(str(error)) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def claim(self, path: Path) -> Claim | None:
        """The right to make an entry; None while another run, or another part of this one, has it.

        Look for the entry again once it is claimed: it may have been finished meanwhile. CacheWriteError as `store`.
        """
        path = path.with_suffix(".claim")
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
            except OSError as error:
                raise CacheWriteError(str(error)) from error
            try:
                if not _lock(descriptor):
                    os.close(descriptor)
                    return None
                # Whoever had it may have taken the file away between opening and locking.
                if _is_file(path, descriptor):
                    return Claim(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def remove_leftovers(self) -> None:
        """Delete what killed runs left half-written, and claims that nobody holds."""
        with contextlib.suppress(OSError):
            for path in _older_than(LEFTOVER_S, self.root, "*/*/*.partial"):
                path.unlink(missing_ok=True)
            for path in _older_than(LEFTOVER_S, self.root, "*/*/*.claim"):
                if (claim := self.claim(path)) is not None:
                    claim.release()


def read_entry(path: Path) -> dict[str, Tensor]:
    """All tensors of an entry; OSError or SafetensorError where it is gone or damaged."""
    # Read, not mapped: what is mapped ends the process when the file is cut short under it.
    return load(path.read_bytes())


def read_frames(path: Path, name: str, start: int, frames: int) -> Tensor:
    """A window of the last axis of one tensor; the rest of the file is not read. Errors as `read_entry`."""
    with safe_open(path, "pt") as file:
        window: Tensor = file.get_slice(name)[..., start : start + frames]
        return window.clone()  # the same as above, and here is the time to wait for the disk


def choose_cache_folder(train_dir: Path) -> Path:
    """`.cache` beside the recordings, or the user's own cache where that cannot be written."""
    beside = train_dir / ".cache"
    try:
        beside.mkdir(exist_ok=True)
        if os.access(beside, os.W_OK):
            return beside
    except OSError:
        pass
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "acestep" / "latents"


def _lock(descriptor: int) -> bool:
    """Whether the file is ours now; also where the file system has no locks, since then nobody can tell."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    """To the disk itself: after a power cut a renamed file must not be an empty one."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _older_than(age_s: float, root: Path, pattern: str) -> Iterator[Path]:
    now = time.time()
    for path in root.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > age_s:
                yield path
