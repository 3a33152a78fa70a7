"""A logger outside the run folder: told everything, and never worth a run."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.callbacks.figures import Figures, samples_figures, step_figures, validation_figures
from acestep.training.results import (
    RunInfo,
    SamplesResult,
    StepResult,
    TrainingSummary,
    ValidationResult,
)

logger = logging.getLogger(__name__)


class LoggerCallback(TrainingCallback):
    """Override `open`, `write` and `close`. The first of them that fails is told once, and the run goes on without."""

    name: str

    def __init__(self) -> None:
        self._control: RunControl | None = None
        self._works = False

    @abstractmethod
    def open(self, run: RunInfo) -> None:
        """Before the first step; where `run.step` is above 0, what lies beyond it is about to come again."""

    @abstractmethod
    def write(self, step: int, figures: Figures) -> None:
        """Numbers of that step; a step can have several writes, each with other names."""

    def write_songs(self, result: SamplesResult) -> None:
        """Songs, for those that can play them."""

    @abstractmethod
    def close(self, *, succeeded: bool) -> None:
        """After the last step, or where the run failed."""

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        self._control, self._works = control, True
        self._attempt(lambda: self.open(run))

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self._attempt(lambda: self.write(result.step, step_figures(result)))

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self._attempt(lambda: self.write(result.step, validation_figures(result)))

    def on_samples(self, result: SamplesResult, control: RunControl) -> None:
        if figures := samples_figures(result):
            self._attempt(lambda: self.write(result.step, figures))
        self._attempt(lambda: self.write_songs(result))

    def on_end(self, summary: TrainingSummary) -> None:
        self._attempt(lambda: self.close(succeeded=True))
        self._works = False

    def on_failure(self, error: BaseException) -> None:
        self._attempt(lambda: self.close(succeeded=False))
        self._works = False

    def _attempt(self, act: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            act()
        # Whatever a service, its library, the network or the disk may raise: none of it is worth a night's training.
        except Exception as error:
            self._works = False
            message = (
                f"{self.name} failed and is left out from now on ({type(error).__name__}: {error}); training goes on"
            )
            logger.warning("%s", message)
            if self._control is not None:
                self._control.note("logger_failed", logger=self.name, message=message)
