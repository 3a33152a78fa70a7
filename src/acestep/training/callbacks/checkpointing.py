"""Keep a run's state every so many epochs, and every so many minutes."""

from __future__ import annotations

import time
from pathlib import Path

from acestep.errors import InputError
from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.results import EpochResult, RunInfo, StepResult


class SaveCheckpointCallback(TrainingCallback):
    """A checkpoint every `every` epochs, and where none was written for `minutes`; None is by epochs alone.

    The run itself keeps one at its end, on a signal and on an error.
    """

    def __init__(self, every: int = 10, minutes: float | None = 30.0) -> None:
        if every < 1:
            raise InputError(f"a checkpoint every {every} epochs is not possible; give 1 or more")
        if minutes is not None and not minutes > 0:
            raise InputError(f"a checkpoint every {minutes} minutes is not possible; give more than 0, or None")
        self.every, self.minutes = every, minutes
        self._kept_at = time.monotonic()

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        self._kept_at = time.monotonic()

    def on_step(self, result: StepResult, control: RunControl) -> None:
        if self.minutes is not None and time.monotonic() - self._kept_at >= 60 * self.minutes:
            control.save_checkpoint()

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        if result.epoch % self.every == 0 and result.epoch < result.epochs:
            control.save_checkpoint()

    def on_checkpoint(self, path: Path) -> None:
        self._kept_at = time.monotonic()
