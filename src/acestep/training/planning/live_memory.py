"""How many bytes of tensors are alive, and how many were at most, while something runs.

Counted from the storages that operations give back and that are let go of, so it says the same for real tensors and
for fake ones that have shapes and no numbers. What a kernel takes for itself inside of one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the `with` block every new storage counts from its birth to its end.

    `bytes` are alive now, `peak_bytes` were at most. What was there before counts when it is given to `hold`, and must
    be given to `overlook` where it is not to count: a view of it would pass for something new.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak_bytes = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that are there already; ones that share a storage count once."""
        for tensor in tensors:
            self._watch(tensor)

    def overlook(self, tensors: Iterable[Tensor]) -> None:
        """Never count these, nor views of them."""
        for tensor in tensors:
            self._watch(tensor, counts=False)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.hold(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _watch(self, tensor: Tensor, *, counts: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes() if counts else 0
        if key in self._storages:
            return

        def forget(_: object) -> None:
            self.bytes -= size
            self._storages.pop(key, None)

        self._storages[key] = weakref.ref(storage, forget)
        self.bytes += size
        self.peak_bytes = max(self.peak_bytes, self.bytes)
