"""A family without its numbers: the same modules over tensors that have shapes and dtypes and no memory.

What a step would need on it is counted by running the step, so the count follows the network, its adapters, its
precision and its checkpointing by itself. A full-size step takes seconds on one core and no memory to speak of.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from acestep.families.base import Family


def shadow_of(family: Family) -> Family:
    """A copy on the meta device that shares nothing a caller could change; the family itself is only looked at.

    Adapters can be attached to it and it can be quantised, before it runs in `shadow_numbers`.
    """
    made = copy.copy(family)
    for name, value in vars(family).items():
        if isinstance(value, nn.Module):
            setattr(made, name, on_meta(value))
    return made


def on_meta(module: nn.Module) -> Any:
    """A deep copy whose parameters and buffers are on the meta device: nothing is allocated."""
    copies: dict[int, Any] = {}
    for parameter in module.parameters():
        bare = torch.empty_like(parameter, device="meta")
        copies[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        copies[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, copies)


@contextmanager
def shadow_numbers(family: Family, device: torch.device, *, answer: int = 0) -> Iterator[None]:
    """Inside the block the shadow's tensors pretend to be on `device`, and so does every tensor that is made.

    answer: to code that asks a tensor for a whole number, which these have not got; a step asks for the most tokens
    that an example of its batch keeps.

    The models' tables of positions and the like are forgotten before and after: one that is kept must never be a
    pretended one. So no other thread may run the same models meanwhile.
    """
    modules = [value for value in vars(family).values() if isinstance(value, nn.Module)]
    _forget_tables(modules)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode, _Answering(answer):
            for module in modules:
                _pretend(module, device)
            yield
    finally:
        _forget_tables(modules)


class _Answering(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, answer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._answer = answer

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not args[0].is_floating_point():
            return self._answer
        return func(*args, **(kwargs or {}))


def _pretend(network: nn.Module, device: torch.device) -> None:
    """Put fake tensors where the meta ones are; one that two modules share stays shared."""
    made: dict[int, Any] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    fake = torch.empty_strided(
                        parameter.shape, parameter.stride(), dtype=parameter.dtype, device=device
                    )
                    made[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                if id(buffer) not in made:
                    made[id(buffer)] = torch.empty_strided(
                        buffer.shape, buffer.stride(), dtype=buffer.dtype, device=device
                    )
                module._buffers[name] = made[id(buffer)]


def _forget_tables(networks: list[nn.Module]) -> None:
    """Clear the functools caches that the modules' source files hold or import."""
    files = {type(module).__module__ for network in networks for module in network.modules()}
    for name in files:
        for value in vars(sys.modules[name]).values():
            if callable(getattr(value, "cache_clear", None)) and callable(getattr(value, "cache_info", None)):
                value.cache_clear()
