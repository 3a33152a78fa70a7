"""The frozen base shared out over processes: each holds a part of every block, and the whole of one while it computes.

Fully sharded data parallelism (Zhao et al. 2023, arXiv:2304.11277) as torch's `fully_shard` has it, for the base alone:
the adapter stays whole in every process. Saves all but 1/count of the blocks' memory, and sends each block to everyone
twice a batch, or thrice under gradient checkpointing. All processes must make the same passes in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def sharded_base(network: nn.Module, whole: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block the members of the network's own `nn.ModuleList`s are shared out, but for `whole`; after it they
    are, bit for bit, what they were. All processes enter and leave together.

    After an error nothing is gathered, since another process may be gone: the base is then in pieces, and of no use.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kept = set(whole)
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    places = [(members, index) for members in lists for index in range(len(members))]
    originals = [members[index] for members, index in places]
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for (members, index), original in zip(places, originals, strict=True):
        # Sharing out changes a module's class and hooks for good, so it is done to a copy around the same tensors.
        tensors = {id(held): held for held in (*original.parameters(), *original.buffers())}
        twin = copy.deepcopy(original, memo=dict(tensors))
        fully_shard(twin, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        members[index] = twin
        for parameter in _shared(original, kept):
            parameter.data = parameter.data.new_empty(0)
    yield
    for (members, index), original in zip(places, originals, strict=True):
        parts: Any = _shared(members[index], kept)
        for parameter, part in zip(_shared(original, kept), parts, strict=True):
            parameter.data = part.full_tensor()
        members[index] = original


@contextmanager
def whole_base(network: nn.Module) -> Iterator[None]:
    """Within the block every process holds the whole of a shared-out base, and may compute on its own."""
    from torch.distributed.fsdp import FSDPModule

    blocks = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for block in blocks:
        block.set_reshard_after_forward(False)
        block.unshard()
    yield
    for block in blocks:
        block.set_reshard_after_forward(True)
        block.reshard()


def _shared(block: nn.Module, kept: set[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in block.parameters() if parameter not in kept]
