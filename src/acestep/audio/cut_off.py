"""Recordings that end before their own headers say: an upload or a copy that broke off.

libsndfile takes what is there of a wav or an ogg file and calls that its length, so the loss would go unseen. The
containers: RIFF (Microsoft and IBM 1991), Ogg (RFC 3533, section 6). A few kilobytes are read.
"""

from __future__ import annotations

import os
from pathlib import Path

_MAX_OGG_PAGE = 27 + 255 + 255 * 255
# Programs that write to a pipe cannot come back to tell the size, and leave one of these, or nearly so.
_UNTOLD = 0x7FFF0000


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks by its own telling; 0 where it lacks none, or says nothing that this can read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            told = int.from_bytes(head[4:8], "little")
            # Some count the byte that fills up to an even length and do not write it.
            return 0 if told >= _UNTOLD or told + 8 <= size + 1 else told + 8 - size
        if head[:4] == b"OggS":
            start = max(size - _MAX_OGG_PAGE, 0)
            file.seek(start)
            return _missing_of_page(file.read())
    return 0


def _missing_of_page(tail: bytes) -> int:
    """What the last Ogg page in `tail` lacks."""
    page = tail[tail.rfind(b"OggS") :] if b"OggS" in tail else b""
    if len(page) < 27:
        return 27 - len(page) if page else 0
    lengths = page[27 : 27 + page[26]]
    return max(27 + page[26] + sum(lengths) - len(page), 0)
