"""Which tracks a step sees: the order of an epoch, in batches, and batches in steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from acestep.datasets.seeding import derived_generator

Step = tuple[tuple[int, ...], ...]
"""Micro-batches of track indices whose gradients one optimizer step adds up."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a run walks through its tracks; any step of it can be told without those before."""

    tracks: int
    batch_size: int
    accumulation: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(math.ceil(self.tracks / self.batch_size) / self.accumulation)

    @property
    def total_steps(self) -> int:
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, of the step numbered from 0."""
        return step // self.steps_per_epoch

    def step(self, step: int) -> Step:
        """The step's micro-batches. An epoch sees each track once; its last step may be smaller than the others."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.tracks, generator=derived_generator(self.seed, "order", epoch)).tolist()
        size = self.batch_size * self.accumulation
        seen = order[place * size : (place + 1) * size]
        return tuple(tuple(seen[start : start + self.batch_size]) for start in range(0, len(seen), self.batch_size))
