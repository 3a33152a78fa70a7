"""A safetensors file from a stranger: its header checked before anything else is read, its tensors on demand.

The format is eight bytes of header length, a JSON header, then the tensors' bytes without gaps
(huggingface.co/docs/safetensors). The library checks lengths and offsets too, but takes the last of two equal names and
does not say what is wrong in words that help; a header alone costs a few milliseconds whatever the file's size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from acestep.errors import CheckpointError
from acestep.wording import names_text

_MAX_HEADER = 16_000_000
"""A v1 adapter's header has about 60 kB; the library itself stops at 100 MB."""
_MAX_NAME = 500
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_BYTES |= {"U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
# A zip archive, which torch.save makes, and the pickle protocols from 2 on.
_PICKLE_STARTS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
# Names end up in messages, cards and file names of other programs; nothing in them may act there.
_TRICKS = re.compile(r"[\x00-\x1f\x7f/\\:]|\.\.")


@dataclass(frozen=True)
class TensorEntry:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """A file whose header holds together; `read` gets tensors from it."""

    path: Path
    entries: dict[str, TensorEntry]
    metadata: dict[str, str]
    size: int

    def read(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Tensors by name, all of them without `names`; not checked for what they hold."""
        wanted = self.entries if names is None else names
        try:
            with safe_open(self.path, "pt") as file:
                return {name: file.get_tensor(name) for name in wanted}
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.path, error) from error


def open_tensor_file(path: Path) -> TensorFile:
    """Read and check the header. CheckpointError says what is wrong with a file that cannot be trusted."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(_PICKLE_STARTS) and length > _MAX_HEADER:
                raise CheckpointError(
                    f"{path} is a pickle under another name, which can run any code when it is read;"
                    " ask its author for a safetensors file"
                )
            if len(start) < 8 or length + 8 > size:
                raise CheckpointError(f"{path} has {size} bytes and is cut off, or no safetensors file; get it again")
            if length > _MAX_HEADER:
                raise CheckpointError(
                    f"{path} has a header of {length / 1e6:.0f} MB, and an adapter's has less than one; do not trust it"
                )
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, error) from error
    header = _parse(path, text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path} is no safetensors file: its metadata are not texts; get it again")
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    _check_layout(path, entries, size - 8 - length)
    return TensorFile(path, entries, metadata, size)


def require_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """CheckpointError where floating tensors hold NaN or infinity, with their names."""
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not is_finite(tensor)]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite, in {names_text(broken)}")


def is_finite(tensor: Tensor) -> bool:
    # Eight-bit floats have no test of their own.
    tensor = tensor.float() if tensor.is_floating_point() and tensor.element_size() < 2 else tensor
    return bool(torch.isfinite(tensor).all())


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{path} has two entries named {twice!r}; do not trust it")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is a {type(header).__name__}")
    return header


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    if len(name) > _MAX_NAME or _TRICKS.search(name):
        raise CheckpointError(f"{path} has a tensor named {name[:80]!r}, which is no module's name; do not trust it")
    try:
        shape = tuple(value["shape"])
        start, end = value["data_offsets"]
        dtype = value["dtype"]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} says too little about {name}; get the file again") from error
    if not (isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in (*shape, start, end)) and start <= end):
        raise CheckpointError(f"{path} says {value} about {name}, which cannot be; get the file again")
    entry = TensorEntry(dtype, shape, start, end)
    if dtype in _BYTES and entry.numbers * _BYTES[dtype] != end - start:
        raise CheckpointError(f"{path} gives {name} {end - start} bytes, {dtype} {list(shape)} needs others")
    return entry


def _check_layout(path: Path, entries: dict[str, TensorEntry], data_size: int) -> None:
    """Every byte belongs to exactly one tensor."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start < end:
            raise CheckpointError(f"{path} is damaged: {name} overlaps another tensor; get the file again")
        if entry.start > end:
            raise CheckpointError(f"{path} is damaged: there is a gap before {name}; get the file again")
        end = entry.end
    if end > data_size:
        raise CheckpointError(f"{path} is cut off: {end - data_size} bytes are missing; get the file again")
    if end < data_size:
        raise CheckpointError(f"{path} has {data_size - end} bytes that belong to no tensor; do not trust it")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as safetensors: {error}")
