"""The run's own record: metrics.jsonl, events.jsonl and log.txt, which everything that shows a run reads."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.results import EpochResult, RunInfo, StepResult, TrainingSummary, ValidationResult
from acestep.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class RecordingCallback(TrainingCallback):
    """One line of metrics a step (`loss`) and a validation (`val_loss`); one event for what happens rarely."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        self.folder.add_event("resumed" if run.step else "started", **{**asdict(run), "folder": str(run.folder)})
        logger.info(
            "%s at step %d of %d: %d tracks to train on, %d held out, %d numbers that learn",
            "resumed" if run.step else "started",
            run.step,
            run.total_steps,
            run.training_tracks,
            run.held_out_tracks,
            run.trainable,
        )

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self.folder.add_metrics(**asdict(result))

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self.folder.add_metrics(**asdict(result))

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        held_out = f", held-out {result.validation.val_loss:.4f}" if result.validation else ""
        logger.info("epoch %d of %d: loss %.4f%s", result.epoch, result.epochs, result.loss, held_out)

    def on_checkpoint(self, path: Path) -> None:
        self.folder.add_event("checkpoint", path=path.name)

    def on_end(self, summary: TrainingSummary) -> None:
        self.folder.add_event(summary.outcome, reason=summary.reason, steps=summary.steps, seconds=summary.seconds)
        logger.info("%s after %d steps: %s", summary.outcome, summary.steps, summary.reason)

    def on_failure(self, error: BaseException) -> None:
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.folder.add_event(kind, error=f"{type(error).__name__}: {error}")
        logger.error("%s: %s: %s", kind, type(error).__name__, error)
