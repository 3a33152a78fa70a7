"""The machine's memory as a process sees it, a container's limit included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60


def total_bytes(root: Path = Path("/")) -> int:
    """What this process may use at all: the machine's memory, or its control group's limit where that is less."""
    return min(_machine_bytes(root), *(limit for limit, _ in _group_limits(root)), _UNLIMITED)


def available_bytes(root: Path = Path("/")) -> int:
    """What may still be taken without making others suffer: what the kernel calls available, less what a control group
    leaves of its limit. 0 where neither is told."""
    known = _meminfo(root).get("MemAvailable")
    if known is None:
        known = _available_elsewhere()
    return min(known, *(max(limit - used, 0) for limit, used in _group_limits(root)), _UNLIMITED)


def process_bytes() -> int:
    """What this process holds in memory now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def group_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least limit of the control groups that the process is in; None where there is none."""
    limits = [limit for limit, _ in _group_limits(root)]
    return min(limits) if limits else None


def _machine_bytes(root: Path) -> int:
    told = _meminfo(root).get("MemTotal")
    if told is not None:
        return told
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return _windows_bytes("ullTotalPhys")


def _available_elsewhere() -> int:
    """Darwin tells a process no such number cheaply; what the machine has is the best guess there."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return _windows_bytes("ullAvailPhys")


def _windows_bytes(field: str) -> int:
    import ctypes

    library = getattr(ctypes, "windll", None)
    if library is None:
        return 0
    names = ("ullTotalPhys", "ullAvailPhys", "a", "b", "c", "d", "e")
    fields = [("dwLength", ctypes.c_ulong), ("dwMemoryLoad", ctypes.c_ulong)]
    status = type(
        "MEMORYSTATUSEX", (ctypes.Structure,), {"_fields_": fields + [(n, ctypes.c_ulonglong) for n in names]}
    )()
    status.dwLength = ctypes.sizeof(status)
    library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(getattr(status, field))


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    found = {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return found


def _group_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of every control group above and at the process's own that limits memory, versions 1 and 2.

    Inside a container the group's own path may not be mounted; the mount's root then is the container's group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            yield from _limits_along(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _limits_along(root / "sys/fs/cgroup/memory", path, *names)


def _limits_along(mount: Path, path: str, limit_name: str, used_name: str) -> Iterator[tuple[int, int]]:
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts) + 1):
        folder = mount.joinpath(*parts[:depth])
        limit = _number(folder / limit_name)
        if limit is not None and limit < _UNLIMITED:
            yield limit, _number(folder / used_name) or 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
