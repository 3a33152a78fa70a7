"""Progress on a terminal: a bar with the loss and where it is going, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.loss_trend import LossTrend, Trend
from acestep.training.results import RunInfo, SamplesResult, StepResult, TrainingSummary, ValidationResult
from acestep.training.validation import paired_change
from acestep.wording import size_text, time_text

LINE_EVERY_S = 60.0
_ARROWS = {-1: "↓", 0: "→", 1: "↑"}
_NARROW = 80


class ProgressCallback(TrainingCallback):
    """For programs that talk to a person: a bar on a terminal, and a line a minute where there is none (a log file).

    The loss is smoothed and freed of the luck of its noise levels (loss_trend.py); its arrow turns only where the
    change is beyond two standard errors. The held-out loss comes with its paired change since the run began. What does
    not fit a narrow terminal is left out, the least important first.
    """

    def __init__(self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._trend = LossTrend()
        self._said_at = clock()
        self._first_validation: ValidationResult | None = None
        self._held_out = ""

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        for warning in run.warnings:
            self._say("note", warning)
        self._said_at = self._clock()
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            BarColumn(bar_width=10 if self.console.width < _NARROW else 24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            # Markup off: the words are ours, but cut to a width that counts letters.
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console,
        )
        self._task = self._bar.add_task("training", total=run.total_steps, completed=run.step, state="")
        self._bar.start()

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self._trend.add(result.examples)
        if self._bar is not None and self._task is not None:
            taken = self._bar.columns[0].bar_width if isinstance(self._bar.columns[0], BarColumn) else 0
            counted = 2 * len(str(result.total_steps)) + 1
            room = self.console.width - (taken or 0) - counted - 3
            self._bar.update(self._task, completed=result.step, state=fitting(self._parts(result), room))
        elif self._clock() - self._said_at >= LINE_EVERY_S or result.step in (1, result.total_steps):
            self._said_at = self._clock()
            counted_steps = f"step {result.step}/{result.total_steps}"
            self.console.print(
                "  ".join([counted_steps, *(part for _, part in self._parts(result))]),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self._held_out = f"held-out {result.val_loss:.4f}"
        if self._first_validation is None:
            self._first_validation = result
        elif self._first_validation.by_track.keys() & result.by_track.keys():
            self._held_out += f" ({paired_change(self._first_validation, result)})"
        if self._bar is None:
            who = f"epoch {result.epoch}" if result.epoch else "the base"
            self.console.print(f"{who}  {self._held_out}", markup=False, highlight=False, soft_wrap=True)

    def on_samples(self, result: SamplesResult, control: RunControl) -> None:
        if result.samples:
            songs = "1 song" if len(result.samples) == 1 else f"{len(result.samples)} songs"
            self._say("samples", f"{songs} of epoch {result.epoch} in {result.folder}")

    def on_event(self, event: str, details: Mapping[str, Any]) -> None:
        # Tables of numbers are for events.jsonl.
        plain = {name: value for name, value in details.items() if isinstance(value, str | int | float)}
        told = details.get("message") or ", ".join(f"{name} {value}" for name, value in plain.items())
        self._say(event.replace("_", " "), str(told))

    def on_end(self, summary: TrainingSummary) -> None:
        self._close()

    def on_failure(self, error: BaseException) -> None:
        self._close()

    def state(self) -> dict[str, Any]:
        first = self._first_validation
        return {} if first is None else {"first_val_loss": first.val_loss, "first_by_track": dict(first.by_track)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if "first_by_track" in state:
            self._first_validation = ValidationResult(0, 0, state["first_val_loss"], None, state["first_by_track"])

    def _parts(self, result: StepResult) -> list[tuple[int, str]]:
        """What there is to say with its importance, 0 the greatest, in the order of reading."""
        trend = self._trend.now()
        music = result.audio_s / result.seconds if result.seconds > 0 else 0.0
        parts = [
            (2, f"epoch {result.epoch}/{result.epochs}"),
            (0, format_loss(trend or Trend(result.loss))),
            (3, self._held_out),
            (1, format_left(result.eta_s, result.eta_range_s)),
            (4, size_text(result.memory_bytes)),
            (5, f"{music:.0f}x real time" if music >= 10 else f"{music:.1f}x real time"),
        ]
        return [(importance, part) for importance, part in parts if part]

    def _say(self, kind: str, text: str) -> None:
        self.console.print(f"[yellow]{escape(kind)}:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def fitting(parts: Sequence[tuple[int, str]], room: int) -> str:
    """As many parts as fit into `room` letters, the most important first, in the order they came."""
    chosen: list[tuple[int, str]] = []
    for part in sorted(parts):
        wider = [*chosen, part]
        if sum(len(text) for _, text in wider) + 2 * (len(wider) - 1) > room:
            break
        chosen = wider
    return "  ".join(text for importance, text in parts if (importance, text) in chosen)


def format_loss(trend: Trend) -> str:
    """loss 0.4321 ↓2.1%"""
    if trend.change is None:
        return f"loss {trend.level:.4f}"
    moved = f"{abs(trend.change):.1%}" if trend.direction else ""
    return f"loss {trend.level:.4f} {_ARROWS[trend.direction]}{moved}"


def format_left(eta_s: float | None, eta_range_s: tuple[float, float] | None) -> str:
    """12 min to 15 min left; one time where both ends read alike, nothing where it cannot be told yet"""
    if eta_s is None:
        return ""
    ends = [time_text(end) for end in eta_range_s or (eta_s, eta_s)]
    return f"{ends[0]} left" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} left"
