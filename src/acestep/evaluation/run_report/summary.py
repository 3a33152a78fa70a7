"""A run in plain sentences: what was trained, how it ended, what it did to tracks that it never saw, what it took."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from acestep.evaluation.run_report.figures import HeldOutLook, RunFigures
from acestep.wording import size_text, time_text

STATE_WORDS = {
    "running": "Running",
    "silent": "Silent",
    "paused": "Paused",
    "finished": "Finished",
    "stopped": "Stopped",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
    "failed": "Failed",
}


def verdict(figures: RunFigures, *, now: datetime | None = None) -> str:
    """The most important of it, in two or three sentences."""
    said = _how_it_stands(figures, now or datetime.now(UTC)), _what_it_learned(figures)
    return " ".join(part for part in said if part)


def facts(figures: RunFigures) -> list[tuple[str, str]]:
    """Name and value of what is known."""
    tracks = _joined(
        figures.training_tracks is not None and f"{figures.training_tracks} trained on",
        figures.held_out_tracks is not None and f"{figures.held_out_tracks} held out",
    )
    adapter = _joined(
        figures.rank is not None and f"rank {figures.rank}",
        figures.trainable is not None and f"{figures.trainable:,} numbers that learn",
    )
    speed = _joined(
        figures.steps_per_second is not None and _pace(figures.steps_per_second),
        figures.audio_per_second is not None and f"{figures.audio_per_second:.3g} s of audio a second",
    )
    share = figures.waiting_share
    waiting = "" if share is None else f"{100 * share:.1f} % of the time"
    known = [
        ("Base model", figures.base_model),
        ("Adapter", adapter),
        ("Tracks", tracks),
        ("Steps", _of(figures.steps, figures.total_steps)),
        ("Epoch", _of(figures.epoch, figures.epochs)),
        ("Training time", "" if figures.seconds is None else time_text(figures.seconds)),
        ("Throughput", speed),
        ("Waiting for data", waiting),
        ("Peak memory", "" if figures.memory_bytes is None else size_text(figures.memory_bytes)),
    ]
    return [(name, value) for name, value in known if value]


def notes(figures: RunFigures, *, missing_songs: int = 0, unreadable: int = 0) -> list[str]:
    """What a reader should know about the figures."""
    found = [*figures.warnings]
    best, last = figures.best, figures.last
    if best is not None and last is not None and best is not last and figures.result_step is None and figures.is_over:
        found.append(
            f"The adapter is that of the last step. The held-out loss was lower at epoch {best.epoch}"
            f" ({best.val_loss:.4f} against {last.val_loss:.4f}); the best of several is always a little flattered."
        )
    if last is not None and last.change is not None and last.change.count == 1:
        found.append("One track is held out: how much the change is worth cannot be told from it.")
    if not figures.looks:
        found.append("No track is held out, so what was learned and what was memorised cannot be told apart.")
    if missing_songs:
        found.append(f"{missing_songs} recorded songs cannot be read and are left out.")
    if unreadable:
        found.append(f"{unreadable} lines of the run's record cannot be read and are left out.")
    return found


def change_text(look: HeldOutLook) -> str:
    """`8.1 % below the base's (95 % interval −11.0 to −5.2 %, paired over 7 tracks)`; empty for the first look."""
    share = look.share
    if share is None:
        return ""
    said = f"{abs(100 * share.value):.1f} % {'below' if share.value < 0 else 'above'} the base's"
    if not math.isfinite(share.low):
        return said
    ends = " to ".join(f"{100 * end:+.1f}".replace("-", "−") for end in (share.low, share.high))
    return f"{said} (95 % interval {ends} %, paired over {share.count} tracks)"


def _how_it_stands(figures: RunFigures, now: datetime) -> str:
    steps = f"step {_of(figures.steps, figures.total_steps)}"
    if figures.state == "running":
        return f"The run is at {steps}{_left(figures)}; this page shows it as it was when it was written."
    if figures.state == "silent":
        quiet = "" if figures.last_sign is None else f" for {time_text((now - figures.last_sign).total_seconds())}"
        again = "`acestep train CONFIG --resume` goes on from the last checkpoint."
        if figures.reason:
            return f"The run broke off at {steps}: {figures.reason}. {again}"
        return f"The run is at {steps} and has written nothing{quiet}. If its process is gone, {again}"
    if figures.state == "paused":
        return f"The run is paused at {steps}."
    word = STATE_WORDS[figures.state]
    took = f" in {time_text(figures.seconds)}" if figures.seconds else ""
    reason = f": {figures.reason}" if figures.reason else ""
    done = f"{_of(figures.steps, None if figures.steps == figures.total_steps else figures.total_steps)} steps"
    return f"{word} after {done}{took}{reason}{'' if reason.endswith('.') else '.'}"


def _what_it_learned(figures: RunFigures) -> str:
    best, last = figures.best, figures.last
    if best is None or last is None:
        loss = figures.training_loss
        return "" if loss is None else f"Its training loss over the last tenth of its steps is {loss:.4f}."
    if len(figures.looks) < 2:
        return f"Before training, the held-out loss is {last.val_loss:.4f}."
    if best is figures.looks[0]:
        return f"The held-out loss was never below the base's {best.val_loss:.4f}; the last is {change_text(last)}."
    said = f"The best held-out loss, {best.val_loss:.4f} at epoch {best.epoch}, lies {change_text(best)}."
    share = best.share
    if share is not None and math.isfinite(share.low) and not share.falls:
        said += " The interval holds zero: no difference is certain yet."
    return said


def _left(figures: RunFigures) -> str:
    if figures.eta_range_s is not None:
        low, high = map(time_text, figures.eta_range_s)
        return f", with {low if low == high else f'{low} to {high}'} left"
    return "" if figures.eta_s is None else f", with about {time_text(figures.eta_s)} left"


def _pace(steps_per_second: float) -> str:
    if steps_per_second >= 1:
        return f"{steps_per_second:.3g} steps a second"
    return f"{time_text(1 / steps_per_second)} a step"


def _of(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def _joined(*parts: str | bool) -> str:
    return ", ".join(part for part in parts if isinstance(part, str))
