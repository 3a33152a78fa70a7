"""What this machine has: facts alone, gathered without a network and without loading a model.

Whether that suffices is for `readiness.py` to say.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from acestep.conditioning.vocabulary import V1_VOCABULARY_BYTES, VOCABULARY_FILE, cache_folder, is_offline
from acestep.families.hub import NANO, NANO_FOLDER, REPRESENTATION_FILES, V1_FILES, V1_HUB_ID, missing_files
from acestep.families.v1 import REPRESENTATIONS
from acestep.training.planning.host_memory import available_bytes, group_limit_bytes, total_bytes
from acestep.training.planning.planner import free_bytes

V1_BYTES = 8_300_000_000
"""That the released v1 takes on a disk."""
LIBRARIES = ("torch", "transformers", "safetensors", "huggingface_hub", "soundfile", "soxr", "av", "numpy")
EXTRAS = {
    "optimizers": ("bitsandbytes", "prodigyopt"),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboard",),
    "annotate": ("librosa",),
    "studio": ("fastapi", "uvicorn", "sqlalchemy"),
    "ray": ("ray",),
}
"""Optional features and the modules that each needs."""
LISTENERS = tuple(hub_id for hub_id, *_ in REPRESENTATIONS.values())
"""Whose weights the representation-alignment losses of v1 need, and nothing else does."""
_WAIT_S = 5

WeightsState = Literal["complete", "partial", "absent"]


@dataclass(frozen=True)
class Gpu:
    """name as the driver says it; capability: of CUDA, as 9.0; free_bytes: None where it is not told."""

    name: str
    kind: Literal["cuda", "mps"]
    total_bytes: int
    free_bytes: int | None = None
    capability: str | None = None
    has_bf16: bool = True


@dataclass(frozen=True)
class Disk:
    """The file system that a folder is on, or will be. used_for: in words."""

    path: str
    used_for: str
    free_bytes: int
    is_writable: bool


@dataclass(frozen=True)
class Weights:
    """A model's files. missing: names of files; bytes_here, bytes_missing: of them, 0 where that is not known."""

    name: str
    state: WeightsState
    where: str | None = None
    missing: tuple[str, ...] = ()
    bytes_here: int = 0
    bytes_missing: int = 0


@dataclass(frozen=True)
class Machine:
    """All that is known. memory_limit_bytes: of a container; None where there is none."""

    system: str
    python: str
    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    memory_limit_bytes: int | None
    gpus: tuple[Gpu, ...]
    driver: str | None
    cuda: str | None
    libraries: dict[str, str | None] = field(default_factory=dict)
    extras: dict[str, bool] = field(default_factory=dict)
    disks: tuple[Disk, ...] = ()
    weights: tuple[Weights, ...] = ()
    is_offline: bool = False


def look_at_machine(*, output_dir: Path = Path("."), hub_id: str = V1_HUB_ID) -> Machine:
    """Everything, in a second or two. output_dir: where runs are going to be written."""
    return Machine(
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        python=platform.python_version(),
        cpus=_cpus(),
        memory_bytes=total_bytes(),
        memory_available_bytes=available_bytes(),
        memory_limit_bytes=group_limit_bytes(),
        gpus=tuple(_gpus()),
        driver=_driver(),
        cuda=torch.version.cuda,
        libraries={name: _version(name) for name in LIBRARIES},
        extras={name: all(map(_is_there, needed)) for name, needed in EXTRAS.items()},
        disks=tuple(_disks(output_dir)),
        weights=tuple(_weights(hub_id)),
        is_offline=is_offline(),
    )


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _cpus() -> int:
    """That this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> Iterator[Gpu]:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        free = None
        with suppress(RuntimeError):  # a GPU that another program has for itself
            free, _ = torch.cuda.mem_get_info(index)
        yield Gpu(
            name=properties.name,
            kind="cuda",
            total_bytes=properties.total_memory,
            free_bytes=free,
            capability=f"{properties.major}.{properties.minor}",
            has_bf16=properties.major >= 8,
        )
    if torch.backends.mps.is_available():
        most = int(torch.mps.recommended_max_memory())
        yield Gpu(name=platform.processor() or "Apple GPU", kind="mps", total_bytes=most)


def _driver() -> str | None:
    """The NVIDIA driver's version; None where there is no driver, whatever torch was built for."""
    with suppress(OSError, IndexError):
        told = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
        return next(word for word in told.split() if word[:1].isdigit() and "." in word)
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=True)
        return done.stdout.split()[0]
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    """Whether it could be imported, without doing so: some print, some take seconds."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _disks(output_dir: Path) -> Iterator[Disk]:
    places = (
        (output_dir, "runs and cached latents"),
        (hub_cache(), "downloaded weights"),
        (cache_folder(), "our own cache"),
    )
    for path, used_for in places:
        there = path.expanduser().absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
        yield Disk(str(path), used_for, free_bytes(path), os.access(there, os.W_OK))


def _weights(hub_id: str) -> Iterator[Weights]:
    yield _of_folder(NANO, NANO_FOLDER)
    yield _of_hub(hub_id)
    vocabulary = cache_folder() / VOCABULARY_FILE
    has_words = vocabulary.is_file() and vocabulary.stat().st_size == V1_VOCABULARY_BYTES
    yield Weights(
        "v1's lyric vocabulary",
        "complete" if has_words else "absent",
        str(vocabulary) if has_words else None,
        bytes_here=V1_VOCABULARY_BYTES if has_words else 0,
        bytes_missing=0 if has_words else V1_VOCABULARY_BYTES,
    )
    for listener in LISTENERS:
        snapshot = _snapshot(listener)
        files = [snapshot / name for name in REPRESENTATION_FILES] if snapshot is not None else []
        missing = tuple(path.name for path in files if not path.is_file())
        state: WeightsState = "absent" if snapshot is None else "partial" if missing else "complete"
        here = [path for path in files if path.is_file()]
        yield Weights(listener, state, str(snapshot) if here else None, missing, _size(here))


def _of_folder(name: str, folder: Path) -> Weights:
    missing = tuple(missing_files(folder))
    files = [folder / name for name in V1_FILES if name not in missing]
    state: WeightsState = "complete" if not missing else "partial" if files else "absent"
    return Weights(name, state, str(folder) if files else None, missing, _size(files))


def _of_hub(hub_id: str) -> Weights:
    snapshot = _snapshot(hub_id)
    whole = V1_BYTES if hub_id == V1_HUB_ID else 0
    if snapshot is None:
        return Weights(hub_id, "absent", missing=V1_FILES, bytes_missing=whole)
    found = _of_folder(hub_id, snapshot)
    missing_bytes = max(whole - found.bytes_here, 0) if found.missing else 0
    return Weights(hub_id, found.state, str(snapshot), found.missing, found.bytes_here, missing_bytes)


def _snapshot(hub_id: str) -> Path | None:
    """The newest snapshot of a repository in the hub's cache; its links to files that are not there count as none."""
    folder = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    main = folder / "refs" / "main"
    with suppress(OSError):
        named = folder / "snapshots" / main.read_text().strip()
        if named.is_dir():
            return named
    with suppress(OSError):
        snapshots = sorted((folder / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime)
        return snapshots[-1] if snapshots else None
    return None


def _size(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files)
