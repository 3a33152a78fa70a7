"""A callback that ends a training when its time is up."""

from __future__ import annotations

import time

from acestep.training import RunInfo, StepResult, TrainingCallback
from acestep.training.callbacks.base import RunControl


class TimeLimitCallback(TrainingCallback):
    """Asks the run to stop after the step in which `seconds` have passed; what was learned until then is kept."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = float("inf")

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        self._deadline = time.monotonic() + self.seconds

    def on_step(self, result: StepResult, control: RunControl) -> None:
        if time.monotonic() > self._deadline and result.step < result.total_steps:
            control.stop(f"{self.seconds:g} s were over after step {result.step} of {result.total_steps}")
