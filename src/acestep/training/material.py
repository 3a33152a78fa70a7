"""What one process trains on: its batches of a run, in their order, with the random numbers that belong to them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from acestep.datasets.latent_dataset import Batch, LatentDataset
from acestep.families.base import TrainingNoise
from acestep.training.config import TimestepDistribution
from acestep.training.objective import Draws, draw
from acestep.training.plan import TrainingPlan, batches_of_one_length
from acestep.training.processes import Processes, shared_out


@dataclass(frozen=True)
class Material:
    """A batch that is ready to be trained on. weight: of each example in the step's gradient; 0 for a batch that only
    keeps this process in step with the others. last: this process has no more of the step."""

    step: int
    indices: tuple[int, ...]
    batch: Batch
    draws: Draws
    weight: float
    last: bool


@dataclass(frozen=True)
class MaterialSource:
    """Makes materials of tracks, as the plan says; all of a run's processes share each step."""

    tracks: LatentDataset
    plan: TrainingPlan
    noise: TrainingNoise
    distribution: TimestepDistribution
    processes: Processes

    def materials(self, step: int, batches_done: int, batch_size: int) -> Iterator[Material | None]:
        """This process's batches from there on, None for a step without any; they may be made ahead, in a thread."""
        while step < self.plan.total_steps:
            epoch = self.plan.epoch_of(step)
            tracks, examples = self.tracks.at_epoch(epoch), self.plan.examples(step)
            share = self._share(examples, tracks, batches_done, batch_size)
            for place, (indices, weight) in enumerate(share, start=1):
                batch = tracks.batch(indices)
                shape = batch.latents.shape[1:]
                draws = draw(self.plan.seed, epoch, indices, shape, self.noise, distribution=self.distribution)
                yield Material(step, indices, batch, draws, weight, last=place == len(share))
            if not share:
                yield None
            step, batches_done = step + 1, 0

    def _share(
        self, examples: Sequence[int], tracks: LatentDataset, batches_done: int, batch_size: int
    ) -> list[tuple[tuple[int, ...], float]]:
        """(batch, weight of its examples): what this process has to do of a step of which some batches are done."""
        count = self.processes.count
        left = batches_of_one_length(examples, tracks.window, batch_size=batch_size)[batches_done:]
        if 0 < len(left) < count:
            # Smaller batches come to the same, and nobody is idle.
            those = [index for indices in left for index in indices]
            left = batches_of_one_length(those, tracks.window, batch_size=math.ceil(len(those) / count))
        shares = shared_out(left, lambda indices: len(indices) * tracks.window(indices[0]), count)
        # Divided by the examples of the whole step, so that small batches add up to exactly the large one.
        own = [(indices, 1 / len(examples)) for indices in shares[self.processes.rank]]
        if not self.processes.shards_base:
            return own
        return own + [(left[0], 0.0)] * (max(map(len, shares)) - len(own))
