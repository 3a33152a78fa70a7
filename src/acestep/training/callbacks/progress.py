"""Progress on a terminal: a bar with the loss and the time that is left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.results import RunInfo, StepResult, TrainingSummary, ValidationResult

_SMOOTHING = 0.95


class ProgressCallback(TrainingCallback):
    """For programs that talk to a person; the loss is a running mean, since single steps say little."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._loss: float | None = None
        self._held_out = ""

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        for warning in run.warnings:
            self.console.print(f"[yellow]note:[/] {warning}")
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[state]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("training", total=run.total_steps, completed=run.step, state="")
        self._bar.start()

    def on_step(self, result: StepResult, control: RunControl) -> None:
        past = result.loss if self._loss is None else self._loss
        self._loss = _SMOOTHING * past + (1 - _SMOOTHING) * result.loss
        left = "" if result.eta_s is None else f"  {format_duration(result.eta_s)} left"
        self._show(result.step, f"epoch {result.epoch}  loss {self._loss:.4f}{self._held_out}{left}")

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self._held_out = f"  held-out {result.val_loss:.4f}"

    def on_end(self, summary: TrainingSummary) -> None:
        self._close()

    def on_failure(self, error: BaseException) -> None:
        self._close()

    def _show(self, step: int, state: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, state=state)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def format_duration(seconds: float) -> str:
    """48 s, 3 min 20 s, 2 h 5 min"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
