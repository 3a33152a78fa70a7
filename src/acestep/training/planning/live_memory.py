"""How many bytes of tensors are alive, and how many were at most, while something runs.

Counted from the storages that operations give back and that are let go of, so it says the same for real tensors and
for fake ones that have shapes and no numbers. What a kernel takes for itself inside of one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Describing takes a while, so a new peak is only described when it is so much above the last one described.
_NOTEWORTHY = 1.01


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the `with` block every new storage counts from its birth to its end.

    `bytes` are alive now, `peak_bytes` were at most since it was last set (to `bytes`, to look at a phase). What was
    there before counts when it is given to `hold`, and must be given to `overlook` where it is not to count: a view of
    it would pass for something new.
    describe: also keep what is alive at (nearly) the peak, in `at_peak`: bytes by the kind given to `hold`, or by the
    operation and its result's shape and dtype.
    """

    def __init__(self, *, describe: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak_bytes = 0
        self.at_peak: Counter[str] = Counter()
        self._describe, self._described = describe, 0
        self._storages: dict[int, tuple[weakref.ref[Any], str, int]] = {}

    def hold(self, tensors: Iterable[Tensor], kind: str = "held") -> int:
        """Count tensors that are there already, those that share a storage once -> how many bytes that added."""
        before = self.bytes
        for tensor in tensors:
            self._watch(tensor, kind)
        return self.bytes - before

    def overlook(self, tensors: Iterable[Tensor]) -> None:
        """Never count these, nor views of them."""
        for tensor in tensors:
            self._watch(tensor, "overlooked", counts=False)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                kind = f"{func.__name__.split('.')[0]} {list(leaf.shape)} {leaf.dtype}" if self._describe else ""
                self._watch(leaf, kind)
        return out

    def _watch(self, tensor: Tensor, kind: str, *, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes() if counts else 0
        if key in self._storages:
            return

        def forget(_: object) -> None:
            self.bytes -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, forget), kind, size
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        if self._describe and self.bytes > self._described * _NOTEWORTHY:
            self._described, self.at_peak = self.bytes, Counter()
            for _reference, held_as, held in self._storages.values():
                self.at_peak[held_as] += held
