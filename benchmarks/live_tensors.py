"""How many bytes of tensors are alive, counted operation by operation: on any device, and on none at all.

Under torch's FakeTensorMode nothing is computed or allocated, so a network that does not fit this machine is counted in
seconds. Memory that kernels use inside of themselves, and what an allocator holds beyond its tensors, is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A new peak is described only if it is so much above the last one described, since describing takes a while.
_NOTEWORTHY = 1.01


class LiveTensors(TorchDispatchMode):
    """Counts storages from when an operation returns them, or `hold` names them, until nobody has them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.at_peak: Counter[str] = Counter()
        """Bytes by kind at (nearly) the peak: the label given to `hold`, or the operation with its result's shape."""
        self._kinds: dict[weakref.ref[torch.UntypedStorage], tuple[str, int]] = {}
        self._described = 0

    def hold(self, tensors: Iterable[Tensor], kind: str) -> int:
        """Count tensors that are there already, under a name -> their bytes."""
        before = self.live
        for tensor in tensors:
            self._add(tensor, kind)
        return self.live - before

    def reset_peak(self) -> None:
        self.peak = self._described = self.live
        self.at_peak = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor, f"{func.__name__.split('.')[0]} {list(tensor.shape)} {tensor.dtype}"[:70])
        return result

    def _add(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        reference = weakref.ref(storage, self._free)
        if reference in self._kinds or tensor.device.type == "meta":
            return
        self._kinds[reference] = kind, storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        if self.live > self._described * _NOTEWORTHY:
            self._described, self.at_peak = self.live, Counter()
            for kind, size in self._kinds.values():
                self.at_peak[kind] += size

    def _free(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        if (known := self._kinds.pop(reference, None)) is not None:
            self.live -= known[1]
