"""What loggers are told of a run: each result as numbers by name, the same names for all of them."""

from __future__ import annotations

from acestep.training.results import SamplesResult, StepResult, ValidationResult

Figures = dict[str, float]


def step_figures(result: StepResult) -> Figures:
    """Of a step; memory in GB, speed in seconds of music heard a second."""
    return {
        "train/loss": result.loss,
        "train/learning_rate": result.learning_rate,
        "train/grad_norm": result.grad_norm,
        "train/epoch": result.epoch,
        "speed/step_s": result.seconds,
        "speed/music_s_per_s": result.audio_s / result.seconds if result.seconds > 0 else 0.0,
        "speed/waiting_share": result.waiting_s / result.seconds if result.seconds > 0 else 0.0,
        "speed/memory_gb": result.memory_bytes / 1e9,
    }


def validation_figures(result: ValidationResult) -> Figures:
    """Of a look at the held-out tracks, by noise level too."""
    figures = {"val/loss": result.val_loss}
    if result.standard_error is not None:
        figures["val/standard_error"] = result.standard_error
    return figures | {f"val/loss_at_sigma_{level.sigma:.2f}": level.val_loss for level in result.by_sigma}


def samples_figures(result: SamplesResult) -> Figures:
    """Of a round of songs."""
    return {} if result.likeness is None else {"samples/likeness": result.likeness}
