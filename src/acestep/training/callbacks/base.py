"""What watches a run: told what happened, able to ask for a few things, and unable to reach the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from acestep.training.results import (
    EpochResult,
    RunInfo,
    SamplesResult,
    StepResult,
    TrainingSummary,
    ValidationResult,
)


class RunControl(Protocol):
    """What a callback may ask of the run; all of it happens between two steps."""

    def save_checkpoint(self) -> None:
        """Keep the run's state on disk."""

    def keep_best(self) -> None:
        """Remember the adapter as it is now: it becomes the run's result, unless a later one is kept."""

    def note(self, event: str, **details: Any) -> None:
        """Write a line into the run's events and tell every watcher; JSON values."""

    def stop(self, reason: str) -> None:
        """End the run as if its steps were done."""


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

    def on_samples(self, result: SamplesResult, control: RunControl) -> None:
        """After songs were made at the fixed prompts."""

    def on_event(self, event: str, details: Mapping[str, Any]) -> None:
        """When something happened that a person wants to know: paused, out of memory, a diagnosis."""

    def on_checkpoint(self, path: Path) -> None:
        """When a checkpoint is complete on disk."""

    def on_end(self, summary: TrainingSummary) -> None:
        """When the adapter is written."""

    def on_failure(self, error: BaseException) -> None:
        """When the run ends otherwise, Ctrl-C included; the error goes on to the caller."""

    def state(self) -> dict[str, Any]:
        """What the callback must remember over a resume, as JSON values."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave in the run that is resumed; before `on_start`."""
