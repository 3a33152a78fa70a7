"""What a run reports: small frozen records that callbacks receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunInfo:
    """Known before the first step. `step` is where a resumed run goes on; trainable: numbers that learn."""

    folder: Path
    step: int
    total_steps: int
    epochs: int
    training_tracks: int
    held_out_tracks: int
    trainable: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class StepResult:
    """After an optimizer step. step and epoch count from 1; loss: mean over the step's examples, before the step.

    grad_norm: before clipping; eta_s: None until it can be told.
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    grad_norm: float
    examples: int
    seconds: float
    eta_s: float | None


@dataclass(frozen=True)
class ValidationResult:
    """Held-out loss at fixed noise and levels, so two of one run can be compared track by track.

    epoch 0 is the base itself. standard_error: over tracks; None for a single one.
    """

    step: int
    epoch: int
    val_loss: float
    standard_error: float | None
    by_track: Mapping[str, float]


@dataclass(frozen=True)
class EpochResult:
    """After an epoch. loss: mean over its examples."""

    epoch: int
    epochs: int
    step: int
    loss: float
    validation: ValidationResult | None


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended. adapter: the folder of the result; seconds: of this call, not of a run it resumed."""

    folder: Path
    adapter: Path
    steps: int
    outcome: Literal["finished", "stopped"]
    reason: str
    first_validation: ValidationResult | None
    last_validation: ValidationResult | None
    seconds: float
