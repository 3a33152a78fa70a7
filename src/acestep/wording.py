"""Sizes, times and lists of names as people read them, in all messages alike."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(size: float) -> str:
    """`8.3 GB`: powers of a thousand, as disks and downloads are told."""
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit < 2 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def time_text(seconds: float) -> str:
    """`0.35 s`, `12 s`, `4 min`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def names_text(names: Sequence[str], shown: int = 5) -> str:
    """`a.wav, b.wav and 3 more`: the first so many; `none` where there are none."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) + more) or "none"
