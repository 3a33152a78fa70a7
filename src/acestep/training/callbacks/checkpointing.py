"""Keep a run's state every so many epochs."""

from __future__ import annotations

from acestep.errors import InputError
from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.results import EpochResult


class SaveCheckpointCallback(TrainingCallback):
    """A checkpoint every `every` epochs; the run itself keeps one at its end, and on Ctrl-C."""

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise InputError(f"a checkpoint every {every} epochs is not possible; give 1 or more")
        self.every = every

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        if result.epoch % self.every == 0 and result.epoch < result.epochs:
            control.save_checkpoint()
