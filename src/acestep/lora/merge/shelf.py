"""Where the results of a merge wait while dense changes, many times as large, come and go."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.lora.low_rank import LowRank

_CHUNK = 16_000_000


class Shelf:
    """Memory in chunks of 64 MB, which glibc takes from the system and not from its heap.

    In the heap each result that stays would lie in the room that a dense change left, and the next change would need
    new room: a TIES merge of two rank-32 adapters of v1 took 3 GB that way, and takes 1 GB so.
    """

    def __init__(self) -> None:
        self._free = torch.empty(0)

    def keep(self, change: LowRank) -> LowRank:
        """The same in float32, as it will be written, without anything else of its tensors' memory."""
        return LowRank(self._put(change.left), self._put(change.values), self._put(change.right), change.energy)

    def _put(self, tensor: Tensor) -> Tensor:
        size = tensor.numel()
        if self._free.numel() < size:
            self._free = torch.empty(max(size, _CHUNK))
        place, self._free = self._free[:size].view(tensor.shape), self._free[size:]
        return place.copy_(tensor)
