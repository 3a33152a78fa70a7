"""Strengths that change along a song and along its noise levels: a LoRA for the chorus, or for the first steps alone.

A song's frames see each other, so a strength cannot differ inside one pass. Each distinct set of strengths gets a pass
of its own over the whole song, and the velocities are mixed frame by frame (as MultiDiffusion mixes regions, Bar-Tal et
al. 2023, arXiv:2302.08113). The cost is one pass for each set that is in use at a noise level; a schedule that is the
same everywhere costs nothing and computes what a plain strength does, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.diffusion.guidance import Branches
from acestep.errors import InputError

FADE_S = 0.5
"""How long one section's strength takes to become the next one's."""


@dataclass(frozen=True)
class Section:
    """A stretch of the song, in seconds, and the strength there."""

    start_s: float
    end_s: float
    weight: float


@dataclass(frozen=True)
class NoiseRange:
    """Noise levels from `high` down to but not with `low`, and what the strength is multiplied by there.

    1 is noise and 0 clean; a song is made from the first to the second.
    """

    high: float
    low: float
    factor: float


@dataclass(frozen=True)
class Strength:
    """How strong one adapter is: `weight` outside all sections; where several hold, the last one written decides.

    Raises InputError for what cannot be.
    """

    weight: float = 1.0
    sections: tuple[Section, ...] = ()
    noise_ranges: tuple[NoiseRange, ...] = ()

    def __post_init__(self) -> None:
        numbers = [self.weight, *(s.weight for s in self.sections), *(r.factor for r in self.noise_ranges)]
        if not all(math.isfinite(number) for number in numbers):
            raise InputError(f"a strength is a number, found {numbers}")
        for section in self.sections:
            if not 0 <= section.start_s < section.end_s:
                raise InputError(f"a section goes from {section.start_s:g} to {section.end_s:g} s; its end comes later")
        for span in self.noise_ranges:
            if not 0 <= span.low < span.high <= 1:
                raise InputError(f"a noise range goes from {span.high:g} down to {span.low:g}; levels lie in 0 to 1")

    def at(self, time_s: float) -> float:
        """The section's strength at that time."""
        found = self.weight
        for section in self.sections:
            if section.start_s <= time_s < section.end_s:
                found = section.weight
        return found

    def factor(self, sigma: float) -> float:
        """What a noise level makes of it."""
        found = 1.0
        for span in self.noise_ranges:
            # The highest level belongs to the range that starts there, or nothing would hold at pure noise.
            if span.low < sigma <= span.high:
                found = span.factor
        return found


Weights = tuple[float, ...]


def section_masks(
    strengths: Sequence[Strength], frames: int, latent_rate: float, *, fade_s: float = FADE_S
) -> dict[Weights, Tensor]:
    """Which frames have which strengths, one number an adapter -> (frames,) float32, all masks together one everywhere.

    latent_rate: frames a second. A fade is a moving average over `fade_s`, centred on the change.
    """
    along = [tuple(strength.at((frame + 0.5) / latent_rate) for strength in strengths) for frame in range(frames)]
    sets = list(dict.fromkeys(along))
    hard = torch.tensor([[float(weights == here) for here in along] for weights in sets])
    reach = min(int(fade_s * latent_rate / 2), max(frames - 1, 0))
    if len(sets) > 1 and reach:
        edges = torch.nn.functional.pad(hard.unsqueeze(1), (reach, reach), mode="replicate")
        hard = torch.nn.functional.avg_pool1d(edges, 2 * reach + 1, stride=1).squeeze(1)
    return dict(zip(sets, hard, strict=True))


def scheduled_branches(
    build: Callable[[], Branches],
    apply: Callable[[Mapping[str, float]], None],
    strengths: Mapping[str, Strength],
    *,
    frames: int,
    latent_rate: float,
) -> Branches:
    """A model's branches under strengths that change, for `GuidedDenoiser`.

    build: makes the branches with the strengths that are set, caches and all (`Family.branches`); called once for each
    set. apply: sets strengths by adapter name (`attach.set_weights`); it is left at the last set that was used.
    """
    names = list(strengths)
    masks = section_masks([strengths[name] for name in names], frames, latent_rate)
    built: dict[Weights, Branches] = {}

    def under(weights: Weights) -> Branches:
        apply(dict(zip(names, weights, strict=True)))
        if weights not in built:
            built[weights] = build()
        return built[weights]

    def sets_at(sigma: float) -> dict[Weights, Tensor]:
        """Sets that a noise level makes equal are one pass."""
        factors = [strengths[name].factor(sigma) for name in names]
        merged: dict[Weights, Tensor] = {}
        for weights, mask in masks.items():
            here = tuple(weight * factor for weight, factor in zip(weights, factors, strict=True))
            merged[here] = merged[here] + mask if here in merged else mask
        return merged

    def mixed(predict: Callable[[Branches], tuple[Tensor, ...]], sigma: float) -> tuple[Tensor, ...]:
        sets = sets_at(sigma)
        if len(sets) == 1:
            return predict(under(next(iter(sets))))
        passes = [
            [mask.to(velocity) * velocity for velocity in predict(under(weights))] for weights, mask in sets.items()
        ]
        return tuple(torch.stack(branch).sum(0) for branch in zip(*passes, strict=True))

    return Branches(
        conditional=lambda latents, sigma: mixed(lambda b: (b.conditional(latents, sigma),), sigma)[0],
        contrasted=lambda latents, sigma: mixed(lambda b: b.contrasted(latents, sigma), sigma),
    )
