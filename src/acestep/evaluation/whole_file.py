"""Text files that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_text_whole(path: Path, text: str) -> Path:
    """Write UTF-8 text under another name first; a reader meets the old file or the new one, never half of either."""
    unfinished = path.with_name(path.name + ".partial")
    try:
        unfinished.write_text(text, encoding="utf-8")
        return unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
