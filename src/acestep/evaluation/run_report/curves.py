"""A run's curves over its steps: loss on training and held-out tracks, learning rate, gradients, speed and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from acestep.evaluation.charts import Chart, Mark, Series, line_chart
from acestep.evaluation.run_report.downsampling import COLUMNS, Points, envelope, means, running_mean
from acestep.evaluation.run_report.events import Happening, gathered
from acestep.evaluation.run_report.figures import HeldOutLook, RunFigures
from acestep.training.expected_loss import corrected_losses
from acestep.training.history import Floats, RunHistory

MAX_TRACKS = 40
MAX_MARKS = 200
GB = 10**9


@dataclass(frozen=True)
class TrackChange:
    """A held-out track's loss at the first look and the last; points: (step, loss) of all looks; line: their picture,
    100 x 24."""

    name: str
    first: float
    last: float
    points: tuple[tuple[float, float], ...]

    @property
    def share(self) -> float:
        return (self.last - self.first) / self.first if self.first > 0 else math.nan

    @property
    def line(self) -> str:
        points = _evenly(self.points, 60)
        xs, ys = zip(*points, strict=True)
        width, height = max(xs) - min(xs) or 1, max(ys) - min(ys) or 1
        return " ".join(f"{100 * (x - min(xs)) / width:.1f},{22 - 20 * (y - min(ys)) / height:.1f}" for x, y in points)


def learning_curves(history: RunHistory, figures: RunFigures, told: Sequence[Happening]) -> list[Chart]:
    """Of the loss: on what is trained on, and on what is held out."""
    draw = partial(_over_steps, history, _marks(told))
    steps = history.steps
    corrected = corrected_losses(steps)
    smooth = means(steps.step, running_mean(steps.loss))
    training = [Series("each step", envelope(steps.step, steps.loss), "faint"), Series("running mean", smooth, "base")]
    if corrected is not None:
        line = means(steps.step, running_mean(corrected))
        training.append(Series("running mean at average noise levels", line, "adapted"))
    return _drawn(
        draw(training, title="Training loss", y_label="loss"),
        *_held_out(draw, figures.looks),
        draw(_by_level(history), title="Held-out loss by noise level", y_label="change against the base, %"),
    )


def machine_curves(history: RunHistory, told: Sequence[Happening]) -> list[Chart]:
    """Of the optimizer and the machine."""
    draw = partial(_over_steps, history, _marks(told))
    steps = history.steps
    rate = Series("learning rate", envelope(steps.step, steps.learning_rate), "plain")
    norms = [
        Series("each step", envelope(steps.step, steps.grad_norm), "faint"),
        Series("running mean", means(steps.step, running_mean(steps.grad_norm)), "base"),
    ]
    if (limit := _clipped_at(history)) is not None and len(steps):
        ends = (float(steps.step[0]), float(steps.step[-1]))
        norms.append(Series(f"clipped above {limit:g}", [(end, limit) for end in ends], "plain"))
    speed = Series("audio trained on", _rate(steps.step, steps.audio_s, steps.seconds), "base")
    waiting = Series("waiting for data", _rate(steps.step, 100 * steps.waiting_s, steps.seconds), "adapted")
    memory = Series("most held so far", envelope(steps.step, steps.memory_bytes / GB), "base")
    return _drawn(
        draw([rate], title="Learning rate", y_label="learning rate"),
        draw(norms, title="Gradient norm, before clipping", y_label="norm, logarithmic", log_y=True),
        draw([speed], title="Throughput", y_label="seconds of audio a second"),
        draw([waiting], title="Waiting for data", y_label="share of the time, %"),
        draw([memory], title="Peak memory", y_label="GB"),
    )


def track_changes(history: RunHistory) -> list[TrackChange]:
    """Held-out tracks of the first look and the last, those that got worse first."""
    looks = history.validations
    if len(looks) < 2:
        return []
    changes = [
        TrackChange(
            name,
            looks[0].by_track[name],
            loss,
            tuple((float(look.step), look.by_track[name]) for look in looks if name in look.by_track),
        )
        for name, loss in looks[-1].by_track.items()
        if name in looks[0].by_track
    ]
    return sorted(changes, key=lambda one: -one.share if math.isfinite(one.share) else math.inf)


def steps_per_epoch(history: RunHistory) -> float | None:
    """All epochs have the same number, so the place where a later one begins tells it; None within the first."""
    steps = history.steps
    later = np.flatnonzero(steps.epoch > 1)
    if not len(later):
        return None
    row = int(later[0])
    return float((steps.step[row] - 1) / (steps.epoch[row] - 1)) or None


def _held_out(draw: Any, looks: Sequence[HeldOutLook]) -> list[Chart | None]:
    shown = _evenly(looks, COLUMNS)
    points = [(float(look.step), look.val_loss) for look in shown]
    errors = [(look, look.standard_error) for look in shown if look.standard_error is not None]
    band = [(float(look.step), look.val_loss - error, look.val_loss + error) for look, error in errors]
    series = [Series("held-out loss ± standard error", points, "adapted", band)]
    if len(points) > 1:
        series.append(Series("the base", [(x, looks[0].val_loss) for x, _ in (points[0], points[-1])], "base"))
    changes = [(float(look.step), look.share) for look in shown if look.share is not None]
    line = [(x, 100 * share.value) for x, share in changes]
    interval = [(x, 100 * share.low, 100 * share.high) for x, share in changes]
    paired = [Series("change, with its 95 % interval", line, "adapted", interval)]
    if len(line) > 1:
        paired.append(Series("no change", [(line[0][0], 0.0), (line[-1][0], 0.0)], "base"))
    return [
        draw(series, title="Held-out loss", y_label="loss"),
        draw(paired, title="Held-out loss, paired by track", y_label="change against the base, %"),
    ]


def _by_level(history: RunHistory) -> list[Series]:
    looks = history.validations
    if len(looks) < 2:
        return []
    first = {one.sigma: one.val_loss for one in looks[0].by_sigma if one.val_loss > 0}
    shown = _evenly(looks, COLUMNS)
    series = []
    for place, (sigma, base) in enumerate(sorted(first.items())[:8]):
        points = [
            (float(look.step), 100 * (one.val_loss / base - 1))
            for look in shown
            for one in look.by_sigma
            if one.sigma == sigma
        ]
        series.append(Series(f"sigma {sigma:.2g}", points, f"level-{place}"))
    return series


def _over_steps(
    history: RunHistory,
    marks: Sequence[Mark],
    series: Sequence[Series],
    *,
    title: str,
    y_label: str,
    log_y: bool = False,
) -> Chart | None:
    """All on one axis of steps, so that what happened at once stands at one place in every chart."""
    steps = [*history.steps.step[:1], *history.steps.step[-1:], *(look.step for look in history.validations)]
    return line_chart(
        series,
        title=title,
        x_label="step",
        y_label=y_label,
        log_y=log_y,
        marks=marks,
        x_range=(float(min(steps)), float(max(steps))),
    )


def _marks(told: Sequence[Happening]) -> list[Mark]:
    checkpoints = [_mark(one) for one in told if one.tone == "checkpoint" and one.step is not None]
    # Of a diagnosis that comes again after each look, the first one is the news.
    others = [_mark(one) for one in gathered(told) if one.tone != "checkpoint" and one.step is not None]
    return [*_evenly(checkpoints, MAX_MARKS), *_evenly(others, MAX_MARKS)]


def _mark(one: Happening) -> Mark:
    return Mark(float(one.step or 0), f"step {one.step}: {one.title}", one.tone)


def _rate(step: Any, amount: Floats, seconds: Floats) -> Points:
    """Sums by sums, because the mean of ratios favours the short steps."""
    known = np.isfinite(amount) & np.isfinite(seconds) & (seconds > 0)
    # As many steps to a point as a running mean looks at; a look at held-out tracks makes one step long.
    columns = int(min(max(known.sum() / 5, 1), 120))
    amounts = means(step[known], amount[known], columns=columns)
    durations = means(step[known], seconds[known], columns=columns)
    return [(x, value / duration) for (x, value), (_, duration) in zip(amounts, durations, strict=True)]


def _clipped_at(history: RunHistory) -> float | None:
    training = history.config.get("training")
    limit = training.get("max_grad_norm") if isinstance(training, dict) else None
    return float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) and limit > 0 else None


def _evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, count).tolist()]


def _drawn(*charts: Chart | None) -> list[Chart]:
    return [chart for chart in charts if chart is not None]
