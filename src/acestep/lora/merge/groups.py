"""Weights for groups of modules: what kind of layer they are, and in which third of the depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from acestep.errors import InputError
from acestep.lora.merge.settings import LARGEST, is_number

_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")
_THIRDS = ("first_third", "middle_third", "last_third")
_KINDS: dict[str, Callable[[str], bool]] = {
    "self_attention": lambda module: _BLOCK.match(module) is not None and ".attn." in module,
    "cross_attention": lambda module: ".cross_attn." in module,
    "feed_forward": lambda module: _BLOCK.match(module) is not None and ".ff." in module,
    "lyric_encoder": lambda module: module.startswith("lyric_"),
}
GROUPS = (*_KINDS, *_THIRDS)


def group_of(module: str) -> str | None:
    """The kind of layer that a module is, by its group's name; None for one of no group."""
    return next((kind for kind, holds in _KINDS.items() if holds(module)), None)


class WeightTable:
    """The adapters' weights for every module."""

    def __init__(
        self, weights: Sequence[float], group_weights: Mapping[str, Sequence[float]] | None, modules: Collection[str]
    ) -> None:
        """modules: all that the base has, or all that the adapters change where no base is known.

        InputError for groups that there are not, that have no module here, or that give another number of weights.
        """
        if not isinstance(group_weights, Mapping | None):
            raise InputError(f"group_weights is {group_weights!r}; write {{'cross_attention': (0.9, 0.1)}}")
        self._weights = checked_weights(weights)
        self._groups = {}
        self._depth = 1 + max((int(found[1]) for name in modules if (found := _BLOCK.match(name))), default=-1)
        for group, values in (group_weights or {}).items():
            if group not in GROUPS:
                raise InputError(f"there is no group {group!r}; choose from {', '.join(GROUPS)}")
            if not any(self._is_in(module, group) for module in modules):
                raise InputError(f"no module here is in the group {group}; leave it out")
            if not isinstance(values, list | tuple) or len(values) != len(weights):
                raise InputError(f"{group} needs {len(weights)} weights, one an adapter, found {values!r}")
            self._groups[group] = checked_weights(values)

    def of_groups(self) -> list[Tensor]:
        """The groups' weights, to be checked before work begins."""
        return list(self._groups.values())

    def of(self, module: str) -> Tensor:
        """(adapters,) float64; where two groups hold the module, the one written last decides."""
        found = self._weights
        for group, weights in self._groups.items():
            if self._is_in(module, group):
                found = weights
        return found

    def _is_in(self, module: str, group: str) -> bool:
        if group in _KINDS:
            return _KINDS[group](module)
        block = _BLOCK.match(module)
        return block is not None and 3 * int(block[1]) // self._depth == _THIRDS.index(group)


def checked_weights(weights: Sequence[float]) -> Tensor:
    """As (adapters,) float64. InputError for what is no number that can be meant."""
    for weight in weights:
        if not is_number(weight):
            raise InputError(
                f"the weight {weight!r} is no number up to {LARGEST:,.0f} either way; give one such as 0.7"
            )
    return torch.tensor([float(weight) for weight in weights], dtype=torch.float64)
