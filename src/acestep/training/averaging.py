"""A running average of an adapter's parameters, which is often better than the last of them.

Averaging the path of an optimizer is due to Polyak and Juditsky 1992; the exponential form with a decay that warms up,
so that the start is soon forgotten, is the usual one of diffusion models (Karras et al. 2024, arXiv:2312.02696,
section 3, on what its length does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningAverage:
    """float32, on the parameters' device; 4 bytes a number."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = dict(parameters)
        self._averages = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
        self._raw: dict[str, Tensor] | None = None

    def decay_at(self, step: int) -> float:
        """After the step numbered from 0: an average over about the last ninth of the steps, `decay` at most."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after this step."""
        present = [parameter.detach().float() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._averages.values()), present, 1 - self.decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are the averages inside the block, and to the bit what they were after it."""
        if self._raw is not None:
            yield
            return
        # Put aside whole before anything changes, so that an interruption anywhere below leaves nothing mixed.
        self._raw = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._fill(self._averages)
            yield
        finally:
            self._fill(self._raw)
            self._raw = None

    @property
    def is_applied(self) -> bool:
        return self._raw is not None

    def raw(self) -> dict[str, Tensor]:
        """What the optimizer moves, inside a block of `applied` too."""
        if self._raw is not None:
            return dict(self._raw)
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The averages themselves, by parameter name."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from saved averages; the names and shapes must be the parameters'."""
        for name, average in self._averages.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[name])
