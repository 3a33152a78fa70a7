"""The merge methods by name: what each does in a line, where it comes from, its options, and how it is called.

There are three kinds, by what they look at. Linear ones say what each change is multiplied by, and never see more than
inner products; dense ones see one module's changes in full; those in shared space see the factors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from acestep.errors import InputError
from acestep.lora.merge.core_space import core_space
from acestep.lora.merge.dare import dare_linear, dare_ties
from acestep.lora.merge.della import della
from acestep.lora.merge.iso_c import iso_c
from acestep.lora.merge.knots import knots
from acestep.lora.merge.magnitude import magnitude
from acestep.lora.merge.settings import is_number
from acestep.lora.merge.slerp import slerp
from acestep.lora.merge.task_arithmetic import task_arithmetic
from acestep.lora.merge.ties import ties
from acestep.lora.merge.tsv import tsv
from acestep.lora.merge.weighted_average import weighted_average

Kind = Literal["linear", "dense", "shared space"]


@dataclass(frozen=True)
class Method:
    """A way to merge.

    merge: linear (weights[, gram]) -> coefficients; dense (deltas, weights[, draws]) -> delta; shared space (b, a,
    weights) -> LowRank; with the method's options by name.
    """

    name: str
    kind: Kind
    description: str
    paper: str
    merge: Callable[..., Any]
    adapters: tuple[int, float] = (1, math.inf)
    """How many it can merge, at least and at most."""

    @property
    def options(self) -> dict[str, float]:
        """Names and defaults, as the function has them."""
        parameters = inspect.signature(self.merge).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def takes(self, name: str) -> bool:
        """Whether it looks at that: `gram`, or the random `draws`."""
        return name in inspect.signature(self.merge).parameters

    def check(self, weights: Tensor) -> None:
        """InputError for weights, (adapters,), that it cannot merge with, before anything is computed."""
        fewest, most = self.adapters
        if not fewest <= len(weights) <= most:
            expected = f"exactly {fewest}" if fewest == most else f"at least {fewest}"
            hint = "; task_arithmetic changes the strength of a single one" if len(weights) == 1 else ""
            raise InputError(f"{self.name} needs {expected} adapters, found {len(weights)}{hint}")
        if not bool(weights.any()):
            raise InputError("all weights are 0, so nothing would be left; give one adapter another weight")
        self.check_group(weights)

    def check_group(self, weights: Tensor) -> None:
        """InputError for weights of a group; all may be 0 there, where the method does not divide by them."""
        if self.kind == "linear":
            same_norms = torch.eye(len(weights), dtype=weights.dtype)
            self.merge(weights, **({"gram": same_norms} if self.takes("gram") else {}))

    def complete(self, options: Mapping[str, object]) -> dict[str, float]:
        """Options with the defaults of those that were not given; InputError for unknown ones and what is no number."""
        known = self.options
        if unknown := [name for name in options if name not in known]:
            raise InputError(
                f"{self.name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'no options'}"
            )
        for name, value in options.items():
            if not is_number(value):
                raise InputError(f"{name} is {value!r}, expected a number such as {known[name]:g}")
        return known | {name: float(value) for name, value in options.items()}  # type: ignore[arg-type]


_METHODS = (
    Method(
        "weighted_average",
        "linear",
        "The mean of the changes, weights made to sum to one: a blend that is as strong as its parents.",
        "arXiv:2203.05482",
        weighted_average,
        adapters=(2, math.inf),
    ),
    Method(
        "task_arithmetic",
        "linear",
        "The weighted sum, exactly what playing them together does; negative weights take away.",
        "arXiv:2212.04089",
        task_arithmetic,
    ),
    Method(
        "slerp",
        "linear",
        "Between two adapters along the arc from one direction to the other, without losing strength on the way.",
        "Shoemake 1985",
        slerp,
        adapters=(2, 2),
    ),
    Method(
        "ties",
        "dense",
        "Keeps the largest numbers, elects a sign for each and averages those that agree: against interference.",
        "arXiv:2306.01708",
        ties,
    ),
    Method(
        "dare_linear",
        "dense",
        "Drops numbers at random, rescales the rest and adds them up.",
        "arXiv:2311.03099",
        dare_linear,
    ),
    Method(
        "dare_ties",
        "dense",
        "Drops numbers at random, rescales the rest, elects signs and averages those that agree.",
        "arXiv:2311.03099",
        dare_ties,
    ),
    Method(
        "della",
        "dense",
        "As dare_ties, but large numbers are dropped less often than small ones.",
        "arXiv:2406.11617",
        della,
    ),
    Method(
        "magnitude",
        "dense",
        "Keeps the largest numbers of each and adds them up.",
        "arXiv:1506.02626",
        magnitude,
    ),
    Method(
        "knots",
        "shared space",
        "TIES after the changes are written in one basis, in which LoRAs are better comparable.",
        "arXiv:2410.19735",
        knots,
    ),
    Method(
        "core_space",
        "shared space",
        "TIES on the small matrices that the changes are in bases shared by all factors.",
        "arXiv:2509.17786",
        core_space,
    ),
    Method(
        "tsv",
        "shared space",
        "Makes the adapters' singular vectors orthogonal, so that none drowns another; weights multiply strengths.",
        "arXiv:2412.00081",
        tsv,
    ),
    Method(
        "iso_c",
        "shared space",
        "The weighted sum with all singular values made equal, so that rare directions are heard.",
        "arXiv:2502.04959",
        iso_c,
    ),
)
METHODS = {method.name: method for method in _METHODS}


def find_method(name: str) -> Method:
    """InputError lists what there is."""
    if name not in METHODS:
        raise InputError(f"there is no merge method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
