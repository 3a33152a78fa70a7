"""Whether an adapter does anything: how large its changes are beside the weights, and how far the outputs move.

Weights tell where it acts, outputs whether that is felt: the network's velocity with and without the adapter, at equal
noise and level, in pairs. Where nothing moves, the usual causes are checked one by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acestep.datasets.seeding import derived_generator
from acestep.diffusion.flow_matching import add_noise
from acestep.errors import InputError
from acestep.evaluation.held_out import HeldOutClip, training_levels
from acestep.evaluation.uncertainty import Estimate, mean_interval
from acestep.families.base import Conditioning, Family
from acestep.lora.attach import attach, detach, set_weights
from acestep.lora.factors import Adapter, Factors
from acestep.lora.inspection import group_of
from acestep.lora.layers import adaptable_modules, changed_norms, dense_weight, weight_shape

Floats = NDArray[np.float64]

NEGLIGIBLE = 1e-4
"""Outputs that differ by less than this share of themselves cannot be told apart by ear or figure."""
ROUNDINGS = 3.0
"""Nor can those within a few times what rounding does."""

_NAME = "measured by effect"
_STACKED = re.compile(r"^(?P<stack>.+?)\.(?P<depth>\d+)\.")


@dataclass(frozen=True)
class ModuleEffect:
    """One module's change: Frobenius norms of delta and weight, the strength counted in."""

    module: str
    rank: int
    delta_norm: float
    weight_norm: float

    @property
    def group(self) -> str:
        return group_of(self.module)

    @property
    def relative(self) -> float:
        return self.delta_norm / self.weight_norm if self.weight_norm else math.inf

    def as_dict(self) -> dict[str, Any]:
        return {"module": self.module, "group": self.group, "rank": self.rank, "relative_norm": _plain(self.relative)}


@dataclass(frozen=True)
class Cause:
    """A usual cause of an adapter without effect. found: None where it cannot be told."""

    key: str
    found: bool | None
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "found": self.found, "text": self.text}


@dataclass(frozen=True)
class Effect:
    """What one adapter does at one strength.

    distance: ||with - without|| / ||without|| of the velocity, over all levels; by_level: the same at each sigma;
    rounding: what the smallest step of the base's dtype does to the same outputs; causes: all that were checked.
    """

    strength: float
    modules: tuple[ModuleEffect, ...]
    distance: Estimate
    by_level: tuple[tuple[float, Estimate], ...]
    rounding: float
    causes: tuple[Cause, ...]

    @property
    def relative_norm(self) -> float:
        """||deltas|| / ||weights|| over the modules that it changes; 0 where there are none."""
        return _together(self.modules)

    @property
    def is_broken(self) -> bool:
        """The network gives NaN or infinity with it."""
        return not math.isfinite(self.distance.value)

    @property
    def is_measurable(self) -> bool:
        return self.is_broken or self.distance.value > max(NEGLIGIBLE, ROUNDINGS * self.rounding)

    @property
    def found_causes(self) -> tuple[Cause, ...]:
        return tuple(cause for cause in self.causes if cause.found)

    @property
    def by_group(self) -> dict[str, float]:
        """Relative norm of each part of the model that is adapted, the most changed first."""
        return _by(self.modules, lambda module: module.group)

    @property
    def by_depth(self) -> dict[str, dict[int, float]]:
        """Relative norm of each block, by the stack of blocks that it is in."""
        found: dict[str, dict[int, float]] = {}
        for stack, depth in sorted({place for module in self.modules if (place := _place(module.module))}):
            here = [module for module in self.modules if _place(module.module) == (stack, depth)]
            found.setdefault(stack, {})[depth] = _together(here)
        return found

    @property
    def summary(self) -> str:
        """In a sentence or two."""
        causes = "; ".join(cause.text for cause in self.found_causes)
        if self.is_broken:
            return f"With this LoRA the model gives NaN instead of music{f': {causes}' if causes else ''}."
        if not self.is_measurable:
            why = f"Likely cause: {causes}." if causes else (
                f"None of the usual causes was found; its changes are too small, {_percent(self.relative_norm)} of the "
                "weights."
            )  # fmt: skip
            least = max(NEGLIGIBLE, ROUNDINGS * self.rounding)
            return (
                "This LoRA has no measurable effect: at equal noise the outputs differ from the base's by less than "
                f"{_percent(least)}. {why}"
            )
        spread = (self.distance.high - self.distance.low) / 2
        within = f" ± {_percent(spread)}" if math.isfinite(spread) else ""
        most = next(iter(self.by_group), "")
        return (
            f"At equal noise the outputs differ from the base's by {_percent(self.distance.value)}{within}; the "
            f"weights change by {_percent(self.relative_norm)}, most in {most}."
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "measurable": self.is_measurable,
            "broken": self.is_broken,
            "summary": self.summary,
            "distance": _estimate(self.distance),
            "distance_by_level": [
                {"sigma": sigma, "distance": _estimate(distance)} for sigma, distance in self.by_level
            ],
            "rounding": _plain(self.rounding),
            "relative_norm": _plain(self.relative_norm),
            "relative_norm_by_group": {group: _plain(value) for group, value in self.by_group.items()},
            "relative_norm_by_depth": [
                {"stack": stack, "depth": depth, "relative_norm": _plain(value)}
                for stack, depths in self.by_depth.items()
                for depth, value in depths.items()
            ],
            "modules": [module.as_dict() for module in self.modules],
            "causes": [cause.as_dict() for cause in self.causes],
        }


@torch.no_grad()
def measure_effect(
    family: Family,
    adapter: Adapter,
    clips: Sequence[HeldOutClip],
    *,
    strength: float = 1.0,
    sigmas: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Effect:
    """Attach the adapter, compare, and take it off again; others that are attached count as the base.

    clips: from `probes.make_probes`, or recordings; each prompt or recording is one observation. sigmas: (levels,),
    None takes even quantiles of the training's. Noise is drawn from (seed, place of the clip) on the CPU. Modules that
    the model has not got are a cause, not an error. `progress` hears (clips done, clips).
    """
    if not clips:
        raise InputError("an effect needs something to be measured on; make probes from a few prompts")
    sigmas = training_levels(family) if sigmas is None else sigmas
    network: nn.Module = family.network
    bases = dict(adaptable_modules(network))
    fitting = {
        module: factors
        for module, factors in adapter.factors.items()
        if module in bases and factors.fits(weight_shape(bases[module]))
    }
    modules = tuple(_module_effect(name, bases[name], factors, strength) for name, factors in fitting.items())
    distances = np.zeros((len(clips), len(sigmas)))
    rounding = 0.0
    if fitting:
        attach(network, Adapter(fitting, adapter.metadata, adapter.report), name=_NAME, weight=0.0)
    try:
        for index, clip in enumerate(clips):
            velocity, noisy = _velocity_of(family, clip, sigmas, derived_generator(seed, "effect", index))
            base = velocity(noisy)
            if index == 0:
                rounding = float(np.mean(_relative(velocity(_next_number(noisy, family.dtype)), base)))
            if fitting and strength:
                set_weights(network, {_NAME: strength})
                distances[index] = _relative(velocity(noisy), base)
                set_weights(network, {_NAME: 0.0})
            if progress is not None:
                progress(index + 1, len(clips))
    finally:
        if fitting:
            detach(network, _NAME)
    names = [clip.recording for clip in clips]
    return Effect(
        strength=strength,
        modules=modules,
        distance=_over_groups(distances.mean(1), names),
        by_level=tuple(
            (float(sigma), _over_groups(distances[:, level], names)) for level, sigma in enumerate(sigmas.tolist())
        ),
        rounding=rounding,
        causes=_causes(family, adapter, fitting, modules, strength),
    )


def delta_norm(factors: Factors, base: nn.Module) -> float:
    """||delta|| of one module at strength 1 (Frobenius), without making the delta; for DoRA by the base's rows."""
    if factors.magnitude is None:
        return factors.product_norm()
    weight = dense_weight(base).flatten(1)
    a, b = (part.to(weight.device).float() for part in (factors.a.flatten(1), factors.b.flatten(1)))
    gains = (factors.magnitude.to(weight.device).float() / changed_norms(weight, a, b)).double()
    crossed, squares = ((weight @ a.T) * b).double().sum(1), weight.square().sum(1).double()
    changed = ((b @ (a @ a.T)) * b).double().sum(1)
    # The delta is (g - 1) W + g B A, row by row; in this form a gain near 1 loses no digits.
    rows = (gains - 1).square() * squares + 2 * (gains - 1) * gains * crossed + gains.square() * changed
    return float(rows.clamp(min=0).sum().sqrt())


def _module_effect(name: str, base: nn.Module, factors: Factors, strength: float) -> ModuleEffect:
    weight_norm = float(torch.linalg.vector_norm(dense_weight(base), dtype=torch.float64))
    return ModuleEffect(name, factors.rank, abs(strength) * delta_norm(factors, base), weight_norm)


def _velocity_of(
    family: Family, clip: HeldOutClip, sigmas: Tensor, generator: torch.Generator
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The network on one clip at all levels at once, and what to give it."""
    clean = clip.latents.expand(len(sigmas), -1, -1, -1)
    noise = torch.randn(clean.shape, generator=generator)
    levels = sigmas.to(family.device)
    conditioning = Conditioning.stack([clip.conditioning] * len(sigmas)).to(family.device)
    noisy = add_noise(clean.to(family.device), noise.to(family.device), levels)
    return (lambda latents: family.velocity(latents, levels, conditioning).float()), noisy


def _relative(moved: Tensor, base: Tensor) -> Floats:
    """||moved - base|| / ||base||, one value a level."""
    ratio = (moved - base).flatten(1).double().norm(dim=1) / base.flatten(1).double().norm(dim=1).clamp(min=1e-30)
    return np.asarray(ratio.cpu().numpy(), dtype=np.float64)


def _next_number(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Every value moved by one rounding of that dtype, every other one up."""
    step = torch.finfo(dtype).eps * (1 - 2 * (torch.arange(values.numel(), device=values.device) % 2))
    return values * (1 + step.view_as(values))


def _over_groups(values: Floats, names: Sequence[str]) -> Estimate:
    """The mean with its interval, each prompt or recording counted once."""
    groups = {name: [value for value, own in zip(values, names, strict=True) if own == name] for name in names}
    return mean_interval([float(np.mean(own)) for own in groups.values()])


def _causes(
    family: Family,
    adapter: Adapter,
    fitting: Mapping[str, Factors],
    modules: Sequence[ModuleEffect],
    strength: float,
) -> tuple[Cause, ...]:
    return (
        Cause("strength", strength == 0, f"its strength is {strength:g}"),
        _base_cause(family, adapter),
        _names_cause(adapter, fitting),
        _zero_cause(modules, strength),
        _finite_cause(adapter),
    )


def _base_cause(family: Family, adapter: Adapter) -> Cause:
    said = adapter.metadata
    if said.family is not None and said.family != family.name:
        return Cause("base", True, f"it was made for {said.family}, this is {family.name}")
    if said.base_fingerprint is None:
        return Cause("base", None, "the file does not say which weights it was trained on")
    if (own := family.fingerprint()) != said.base_fingerprint:
        found, here = said.base_fingerprint[:12], own[:12]
        return Cause("base", True, f"it was trained on other {family.name} weights ({found}) than these ({here})")
    return Cause("base", False, "it was trained on these weights")


def _names_cause(adapter: Adapter, fitting: Mapping[str, Factors]) -> Cause:
    strangers = [*adapter.report.unmatched, *(name for name in adapter.factors if name not in fitting)]
    misshapen = adapter.report.misshapen
    if not strangers and not misshapen:
        return Cause("names", False, f"all names match: {len(fitting)} modules are changed")
    told = ", ".join([*strangers, *misshapen][:3])
    return Cause(
        "names", True,
        f"{len(strangers)} names match no module and {len(misshapen)} have another shape ({told}), "
        f"{len(fitting)} modules are changed",
    )  # fmt: skip


def _zero_cause(modules: Sequence[ModuleEffect], strength: float) -> Cause:
    zero = [module for module in modules if module.delta_norm == 0 and strength != 0]
    if not zero:
        return Cause("zero", False, "no module's change is zero")
    if len(zero) == len(modules):
        return Cause("zero", True, f"the changes of all {len(zero)} modules are zero: it never learned anything")
    return Cause("zero", True, f"the changes of {len(zero)} of {len(modules)} modules are zero")


def _finite_cause(adapter: Adapter) -> Cause:
    bad = [
        name
        for name, factors in adapter.factors.items()
        if not all(torch.isfinite(p).all() for p in (factors.a, factors.b, factors.magnitude) if p is not None)
    ]
    if bad:
        return Cause("not_finite", True, f"{len(bad)} modules hold NaN or infinity ({', '.join(bad[:3])})")
    return Cause("not_finite", False, "all its numbers are finite")


def _place(module: str) -> tuple[str, int] | None:
    match = _STACKED.match(module)
    return (match["stack"], int(match["depth"])) if match else None


def _together(modules: Sequence[ModuleEffect]) -> float:
    weight = math.fsum(module.weight_norm**2 for module in modules)
    return math.sqrt(math.fsum(module.delta_norm**2 for module in modules) / weight) if weight else 0.0


def _by(modules: Sequence[ModuleEffect], key: Callable[[ModuleEffect], str]) -> dict[str, float]:
    values = {
        name: _together([module for module in modules if key(module) == name])
        for name in dict.fromkeys(map(key, modules))
    }
    return dict(sorted(values.items(), key=lambda entry: -entry[1]))


def _percent(share: float) -> str:
    """Two digits that count."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _estimate(estimate: Estimate) -> dict[str, float | int | None]:
    return {**estimate.as_dict(), "value": _plain(estimate.value)}
