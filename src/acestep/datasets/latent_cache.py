"""A cache of tensors under names made from their content's origin; entries appear whole or not at all.

Two runs may fill one cache at once: both write what both computed, and the later rename replaces equal with equal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)


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
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem[:16]}.{uuid.uuid4().hex[:8]}.partial")
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def load(self, path: Path) -> dict[str, Tensor]:
        return load_file(path)


def read_frames(path: Path, name: str, start: int, frames: int) -> Tensor:
    """A window of the last axis of one tensor; the rest of the file is not read."""
    with safe_open(path, "pt") as file:
        window: Tensor = file.get_slice(name)[..., start : start + frames]
    return window


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
