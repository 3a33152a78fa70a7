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
class ExampleLoss:
    """One example of a step: whose window it was, the noise level it was seen at, its loss."""

    track: str
    sigma: float
    loss: float


@dataclass(frozen=True)
class StepResult:
    """After an optimizer step. step and epoch count from 1; loss: mean over the step's examples, before the step.

    grad_norm: before clipping; seconds: the whole step; waiting_s: of them, for data; memory_bytes: the most that was
    held since the run began, on the GPU or else by the process; eta_s: None until it can be told; eta_range_s: what it
    is likely to lie in, by how the steps so far differed.
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    learning_rate: float
    grad_norm: float
    examples: tuple[ExampleLoss, ...]
    audio_s: float
    seconds: float
    waiting_s: float
    memory_bytes: int
    eta_s: float | None
    eta_range_s: tuple[float, float] | None


@dataclass(frozen=True)
class SigmaBin:
    """Held-out loss at one of the fixed noise levels. standard_error: over tracks; None for a single one."""

    sigma: float
    val_loss: float
    standard_error: float | None


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
    by_sigma: tuple[SigmaBin, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A song made at a fixed prompt and seed. path and base_path: with the adapter, and without it."""

    prompt: str
    lyrics: str
    seed: int
    path: Path
    base_path: Path


@dataclass(frozen=True)
class SamplesResult:
    """After a round of samples. likeness: how much more alike songs of different prompts are than the base's.

    It is 1 minus the ratio of their mean squared log-mel distances: 0 is as different as the base's, 1 all the same,
    None a single song.
    """

    step: int
    epoch: int
    folder: Path
    samples: tuple[Sample, ...]
    likeness: float | None


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
    """How a run ended. adapter: the folder of the result; best_step: where it was taken from, None for the end of the
    run; seconds: of this call, not of a run it resumed."""

    folder: Path
    adapter: Path
    steps: int
    outcome: Literal["finished", "stopped", "cancelled"]
    reason: str
    best_step: int | None
    first_validation: ValidationResult | None
    last_validation: ValidationResult | None
    seconds: float
