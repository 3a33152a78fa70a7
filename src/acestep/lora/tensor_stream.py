"""A safetensors file written tensor by tensor: of a checkpoint larger than the memory, one tensor is held at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.lora.output import told_in_words

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES_BY_NAME = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class PlannedTensor:
    """What a tensor will be, before it is there."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    path: Path,
    planned: Mapping[str, PlannedTensor],
    make: Callable[[str], Tensor],
    *,
    metadata: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write what `make` gives for each name, cast to the dtype that was planned; into a new folder, or under a partial
    name, since half a file is left where this raises. CheckpointError where the disk does not take it.
    """
    # Wide numbers first, as the library orders them, so that each lies at a multiple of its size.
    names = sorted(planned, key=lambda name: (-planned[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name in names:
        tensor, start = planned[name], end
        end = start + tensor.size
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with told_in_words(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for done, name in enumerate(names, start=1):
            tensor_of = planned[name]
            made = make(name).detach().to("cpu", tensor_of.dtype).contiguous()
            assert tuple(made.shape) == tensor_of.shape, name
            file.write(made.view(-1).view(torch.uint8).numpy().data)
            if progress is not None:
                progress(done, len(names))
