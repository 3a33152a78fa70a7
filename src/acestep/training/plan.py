"""Which tracks a step sees: the order of an epoch, in steps, and steps in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from acestep.datasets.seeding import derived_generator


@dataclass(frozen=True)
class TrainingPlan:
    """How a run walks through its tracks; any step of it can be told without those before."""

    tracks: int
    examples_per_step: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.tracks / self.examples_per_step)

    @property
    def total_steps(self) -> int:
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, of the step numbered from 0."""
        return step // self.steps_per_epoch

    def examples(self, step: int) -> tuple[int, ...]:
        """The step's tracks. An epoch sees each track once; its last step may see fewer than the others."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.tracks, generator=derived_generator(self.seed, "order", epoch)).tolist()
        return tuple(order[place * self.examples_per_step : (place + 1) * self.examples_per_step])


def batches_of_one_length(
    examples: Sequence[int], window: Callable[[int], int], *, batch_size: int
) -> list[tuple[int, ...]]:
    """The examples in batches of at most `batch_size`, in each only windows of one length.

    The patch embedding's norm sees all frames of a window, so neither padding nor cutting a window to its neighbours'
    length would leave the loss what it is alone. The gradient of a step is a sum over its examples, so it is the same
    in batches of any size.
    """
    by_length: dict[int, list[int]] = {}
    for index in examples:
        by_length.setdefault(window(index), []).append(index)
    return [
        tuple(indices[start : start + batch_size])
        for indices in by_length.values()
        for start in range(0, len(indices), batch_size)
    ]
