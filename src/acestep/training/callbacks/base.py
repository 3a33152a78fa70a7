"""What watches a run: told what happened, able to ask for two things, and unable to reach the model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from acestep.training.results import EpochResult, RunInfo, StepResult, TrainingSummary, ValidationResult


class RunControl(Protocol):
    """What a callback may ask of the run; both happen between two steps."""

    def save_checkpoint(self) -> None: ...

    def stop(self, reason: str) -> None: ...


class TrainingCallback:
    """Override what is of interest. A callback that raises ends the run, which keeps its checkpoints."""

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        """Before the first step."""

    def on_step(self, result: StepResult, control: RunControl) -> None:
        """After each optimizer step."""

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        """After each look at the held-out tracks, the first one before any training."""

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        """After each whole epoch."""

    def on_checkpoint(self, path: Path) -> None:
        """When a checkpoint is complete on disk."""

    def on_end(self, summary: TrainingSummary) -> None:
        """When the adapter is written."""

    def on_failure(self, error: BaseException) -> None:
        """When the run ends otherwise, Ctrl-C included; the error goes on to the caller."""
