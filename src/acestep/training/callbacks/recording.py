"""The run's own record: metrics.jsonl, events.jsonl and log.txt, which everything that shows a run reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.results import (
    EpochResult,
    ExampleLoss,
    RunInfo,
    SamplesResult,
    StepResult,
    TrainingSummary,
    ValidationResult,
)
from acestep.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class RecordingCallback(TrainingCallback):
    """One line of metrics a step (`loss`), a validation (`val_loss`) and a round of samples (`samples`); one event for
    what happens rarely. A step takes some 300 bytes and 70 for each of its examples.
    """

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
        for warning in run.warnings:
            logger.info("note: %s", warning)

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self.folder.add_metrics(**{**asdict(result), "examples": [_short(example) for example in result.examples]})

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self.folder.add_metrics(**asdict(result))

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        held_out = f", held-out {result.validation.val_loss:.4f}" if result.validation else ""
        logger.info("epoch %d of %d: loss %.4f%s", result.epoch, result.epochs, result.loss, held_out)

    def on_samples(self, result: SamplesResult, control: RunControl) -> None:
        # Paths from the run folder on, which may be moved.
        songs = [
            {**asdict(song), "path": self._inside(song.path), "base_path": self._inside(song.base_path)}
            for song in result.samples
        ]
        self.folder.add_metrics(**{**asdict(result), "folder": self._inside(result.folder), "samples": songs})
        logger.info("epoch %d: %d songs in %s", result.epoch, len(songs), result.folder)

    def on_event(self, event: str, details: Mapping[str, Any]) -> None:
        self.folder.add_event(event, **details)
        told = details.get("message") or ", ".join(f"{name} {value}" for name, value in details.items())
        logger.info("%s: %s", event, told)

    def on_checkpoint(self, path: Path) -> None:
        self.folder.add_event("checkpoint", path=path.name)

    def on_end(self, summary: TrainingSummary) -> None:
        self.folder.add_event(
            summary.outcome,
            reason=summary.reason,
            steps=summary.steps,
            best_step=summary.best_step,
            seconds=summary.seconds,
        )
        logger.info("%s after %d steps: %s", summary.outcome, summary.steps, summary.reason)

    def on_failure(self, error: BaseException) -> None:
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.folder.add_event(kind, error=f"{type(error).__name__}: {error}")
        # Not an error in the log: whoever started the run hears of it by the exception, and once is enough.
        logger.info("%s: %s: %s", kind, type(error).__name__, error)

    def _inside(self, path: Path) -> str:
        folder = self.folder.path
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _short(example: ExampleLoss) -> dict[str, Any]:
    return {
        "track": example.track,
        "sigma": float(f"{example.sigma:.5g}"),
        "loss": float(f"{example.loss:.5g}"),
    }
