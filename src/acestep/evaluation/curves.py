"""The loss curves of a training, read from the run folder's metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import InputError

SMOOTHING = 0.9
"""Weight of the past in the running mean: the loss of one step says more about its noise levels than about progress."""


@dataclass(frozen=True)
class TrainingCurves:
    """(step, loss) points; training is smoothed by a running mean."""

    training: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]


def read_curves(metrics: Path) -> TrainingCurves:
    """Both curves; a last line that a stopped run left half-written is passed over."""
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{metrics} cannot be read ({error.strerror}); name a run folder with metrics.jsonl") from None
    training: list[tuple[float, float]] = []
    validation: list[tuple[float, float]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "loss" in row:
            training.append((float(row["step"]), float(row["loss"])))
        if "val_loss" in row:
            validation.append((float(row["step"]), float(row["val_loss"])))
    return TrainingCurves(_smoothed(training), tuple(validation))


def _smoothed(points: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    smooth, weight, running = [], 0.0, 0.0
    for step, loss in points:
        running = SMOOTHING * running + (1 - SMOOTHING) * loss
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smooth.append((step, running / weight))
    return tuple(smooth)
