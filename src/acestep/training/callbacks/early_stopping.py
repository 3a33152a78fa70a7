"""End a run that has stopped getting better, and keep what it was at its best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from acestep.errors import InputError
from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.config import MetricName
from acestep.training.results import EpochResult, RunInfo, ValidationResult


class EarlyStoppingCallback(TrainingCallback):
    """Stops after `patience` looks without a new best: validations for "val_loss", epochs for "loss".

    The state at each new best is kept as the run's result. A look is better where it lies more than `min_delta` below
    the best. The base's own loss, before any training, is no candidate: an adapter that does nothing is no result. What
    was seen survives a resume.
    """

    def __init__(self, patience: int = 5, metric: MetricName = "val_loss", *, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise InputError(f"patience is {patience}; give 1 or more")
        if metric not in get_args(MetricName):
            raise InputError(f"metric is {metric!r}; choose one of {', '.join(get_args(MetricName))}")
        if not min_delta >= 0:
            raise InputError(f"min_delta is {min_delta}; give 0 or more")
        self.patience, self.metric, self.min_delta = patience, metric, min_delta
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.waited = 0

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        if self.metric == "val_loss" and not run.held_out_tracks:
            control.note(
                "warning",
                message="early stopping watches val_loss, but no track is held out, so it will never act; set"
                " data.validation_split above 0 with at least two different recordings, or metric: loss",
            )

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        if self.metric == "val_loss" and result.epoch > 0:
            self._look(result.val_loss, result.epoch, control)

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        if self.metric == "loss":
            self._look(result.loss, result.epoch, control)

    def state(self) -> dict[str, Any]:
        return {"metric": self.metric, "best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state(self, state: Mapping[str, Any]) -> None:
        # What was seen of another metric says nothing about this one.
        if state.get("metric") == self.metric:
            self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]

    def _look(self, value: float, epoch: int, control: RunControl) -> None:
        if value < (float("inf") if self.best is None else self.best - self.min_delta):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            control.keep_best()
            return
        self.waited += 1
        if self.waited >= self.patience:
            looks = "validations" if self.metric == "val_loss" else "epochs"
            control.stop(
                f"{self.metric} has not fallen below {self.best:.4f}, its best (epoch {self.best_epoch}),"
                f" for {self.waited} {looks}"
                if self.best is not None
                else f"{self.metric} was no number for {self.waited} {looks}"
            )
