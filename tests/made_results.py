"""Results as a run reports them, made by hand, and a control that remembers what it was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.training.results import (
    EpochResult,
    ExampleLoss,
    RunInfo,
    Sample,
    SamplesResult,
    SigmaBin,
    StepResult,
    TrainingSummary,
    ValidationResult,
)


@dataclass
class RememberingControl:
    saved: int = 0
    kept: int = 0
    stopped: list[str] = field(default_factory=list)
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def save_checkpoint(self) -> None:
        self.saved += 1

    def keep_best(self) -> None:
        self.kept += 1

    def note(self, event: str, **details: Any) -> None:
        self.notes.append((event, details))

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)


def run_info(folder: Path, **changes: Any) -> RunInfo:
    values: dict[str, Any] = {
        "folder": folder, "step": 0, "total_steps": 20, "epochs": 10, "training_tracks": 4, "held_out_tracks": 1,
        "trainable": 1000, "warnings": ("tracks are few",),
    }  # fmt: skip
    return RunInfo(**{**values, **changes})


def step_result(step: int, loss: float = 0.5, **changes: Any) -> StepResult:
    values: dict[str, Any] = {
        "step": step, "total_steps": 20, "epoch": 1, "epochs": 10, "loss": loss, "learning_rate": 1e-4,
        "grad_norm": 0.3, "examples": (ExampleLoss("a.wav", 0.123456789, loss),), "audio_s": 10.0, "seconds": 0.5,
        "waiting_s": 0.01, "memory_bytes": 3_200_000_000, "eta_s": 200.0, "eta_range_s": (180.0, 240.0),
    }  # fmt: skip
    return StepResult(**{**values, **changes})


def validation_result(epoch: int, losses: Sequence[float] | Mapping[str, float], *, step: int | None = None):  # type: ignore[no-untyped-def]
    by_track = losses if isinstance(losses, Mapping) else {f"{i}.wav": loss for i, loss in enumerate(losses)}
    mean = sum(by_track.values()) / len(by_track)
    bins = (SigmaBin(0.9, mean * 1.5, 0.1), SigmaBin(0.5, mean * 0.5, None))
    return ValidationResult(epoch if step is None else step, epoch, mean, 0.05, by_track, bins)


def epoch_result(epoch: int, loss: float = 0.5, *, epochs: int = 10) -> EpochResult:
    return EpochResult(epoch, epochs, epoch, loss, None)


def samples_result(folder: Path, epoch: int = 10, likeness: float | None = 0.1) -> SamplesResult:
    path = folder / "samples" / f"epoch-{epoch:04}"
    base = folder / "samples" / "base"
    song = Sample("a tune", "la", 3, path / "01-a-tune-seed3.flac", base / "01-a-tune-seed3.flac")
    return SamplesResult(epoch, epoch, path, (song,), likeness)


def summary(folder: Path, **changes: Any) -> TrainingSummary:
    values: dict[str, Any] = {
        "folder": folder, "adapter": folder / "adapter", "steps": 20, "outcome": "finished", "reason": "done",
        "best_step": None, "first_validation": None, "last_validation": None, "seconds": 3.0,
    }  # fmt: skip
    names = TrainingSummary.__dataclass_fields__
    return TrainingSummary(**{name: value for name, value in {**values, **changes}.items() if name in names})
