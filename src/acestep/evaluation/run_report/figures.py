"""What a run amounts to in figures: how it stands, what it learned on held-out tracks, what it took."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from acestep.errors import InputError
from acestep.evaluation.uncertainty import Estimate, mean_interval
from acestep.lora.metadata import AdapterMetadata, metadata_from_header
from acestep.training.history import Event, Floats, RunHistory
from acestep.training.results import ValidationResult
from acestep.training.run_folder import RunFolder

SCHEMA = "acestep-run-report-1"
WEIGHTS = "pytorch_lora_weights.safetensors"

State = Literal["running", "silent", "paused", "finished", "stopped", "cancelled", "interrupted", "failed"]
_BEGINNINGS = ("started", "resumed", "went on")
_ENDINGS: Mapping[str, State] = {
    "paused": "paused",
    "finished": "finished",
    "stopped": "stopped",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
    "failed": "failed",
}
SILENT_S = 900.0
"""A run that writes nothing for so long, and for 20 of its steps, is likely gone; a look at held-out tracks or a round
of samples may keep a slow machine quiet for minutes."""


@dataclass(frozen=True)
class HeldOutLook:
    """A validation against the run's first one.

    change: of the loss, paired over the tracks both saw, with its 95 % interval; None for the first look itself and
    where none has tracks in common. base: the first look's mean over those tracks, which a percentage refers to.
    """

    step: int
    epoch: int
    val_loss: float
    standard_error: float | None
    change: Estimate | None
    base: float

    @property
    def share(self) -> Estimate | None:
        """The change as a share of the base's loss."""
        if self.change is None or self.base <= 0:
            return None
        change = self.change
        return Estimate(change.value / self.base, change.low / self.base, change.high / self.base, change.count)

    def as_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("step", "epoch", "val_loss", "standard_error")}
        change, share = self.change, self.share
        return {
            **values,
            "change": None if change is None else change.as_dict(),
            "change_share": None if share is None else share.as_dict(),
        }


@dataclass(frozen=True)
class RunFigures:
    """seconds: of the training steps, pauses left out; memory_bytes: the most that was held; None is not known.

    result_step: where the adapter was taken from, where that is not the last step; config_sha256: of the settings the
    adapter was trained with.
    """

    state: State
    reason: str
    steps: int
    total_steps: int | None
    epoch: int
    epochs: int | None
    training_tracks: int | None
    held_out_tracks: int | None
    trainable: int | None
    warnings: tuple[str, ...]
    base_model: str
    rank: int | None
    started: datetime | None
    last_sign: datetime | None
    seconds: float | None
    steps_per_second: float | None
    audio_per_second: float | None
    waiting_share: float | None
    memory_bytes: int | None
    training_loss: float | None
    looks: tuple[HeldOutLook, ...]
    result_step: int | None
    adapter: Path | None
    base_fingerprint: str | None
    config_sha256: str | None
    eta_s: float | None
    eta_range_s: tuple[float, float] | None

    @property
    def is_over(self) -> bool:
        return self.state not in ("running", "paused", "silent")

    @property
    def best(self) -> HeldOutLook | None:
        """The look with the lowest loss; the first of equals."""
        return min(self.looks, key=lambda look: look.val_loss, default=None)

    @property
    def last(self) -> HeldOutLook | None:
        return self.looks[-1] if self.looks else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the looks between the best and the last."""
        values = {name: value for name, value in asdict(self).items() if name not in ("looks", "adapter")}
        for name in ("started", "last_sign"):
            values[name] = values[name] and values[name].isoformat()
        first = self.looks[0] if self.looks else None
        held_out = {"first": first, "best": self.best, "last": self.last}
        return {
            "schema": SCHEMA,
            **values,
            "adapter": None if self.adapter is None else str(self.adapter),
            "held_out": {name: look and look.as_dict() for name, look in held_out.items()},
        }


def run_figures(history: RunHistory, *, now: datetime | None = None) -> RunFigures:
    """All figures of a run; InputError where it has recorded neither a step nor a look at held-out tracks."""
    steps = history.steps
    if not len(steps) and not history.validations:
        raise InputError(
            f"{history.folder} has no metrics yet: no step is recorded in metrics.jsonl; come back after the first one"
            " (log.txt tells what the run is doing)"
        )
    started = _joined(event.details for event in history.events if event.kind in ("started", "resumed"))
    ended = _joined(event.details for event in history.events[-1:] if event.kind in _ENDINGS)
    last_sign = _last_sign(history)
    state, reason = _state(history, last_sign, now or datetime.now(UTC))
    seconds = _total(steps.seconds)
    metadata = _metadata(history)
    memory = steps.memory_bytes[np.isfinite(steps.memory_bytes)]
    lora = history.config.get("lora")
    return RunFigures(
        state=state,
        reason=reason,
        steps=int(steps.step[-1]) if len(steps) else 0,
        total_steps=history.total_steps,
        epoch=int(steps.epoch[-1]) if len(steps) else 0,
        epochs=history.epochs,
        training_tracks=_whole(started.get("training_tracks")),
        held_out_tracks=_whole(started.get("held_out_tracks")),
        trainable=_whole(started.get("trainable")),
        warnings=tuple(map(str, started.get("warnings") or ())),
        base_model=str(history.config.get("base_model") or metadata.base_model or "a base that is not recorded"),
        rank=_whole(lora.get("rank")) if isinstance(lora, dict) else None,
        started=next((event.time for event in history.events if event.time), None),
        last_sign=last_sign,
        seconds=seconds,
        steps_per_second=len(steps) / seconds if seconds else None,
        audio_per_second=_ratio(_total(steps.audio_s), seconds),
        waiting_share=_ratio(_total(steps.waiting_s), seconds),
        memory_bytes=int(memory.max()) if len(memory) and memory.max() > 0 else None,
        training_loss=_late_mean(steps.loss),
        looks=held_out_looks(history.validations),
        result_step=_whole(ended.get("best_step")),
        adapter=_adapter(history),
        base_fingerprint=metadata.base_fingerprint,
        config_sha256=metadata.training_config_sha256,
        eta_s=history.eta_s,
        eta_range_s=history.eta_range_s,
    )


def held_out_looks(validations: Sequence[ValidationResult]) -> tuple[HeldOutLook, ...]:
    """Each validation against the first; noise and levels are the same in all, so tracks pair."""
    return tuple(_look(result, validations[0]) for result in validations)


def _look(result: ValidationResult, first: ValidationResult) -> HeldOutLook:
    common = [track for track in result.by_track if track in first.by_track]
    change, base = None, first.val_loss
    if result is not first and common:
        change = mean_interval([result.by_track[track] - first.by_track[track] for track in common])
        base = sum(first.by_track[track] for track in common) / len(common)
    return HeldOutLook(result.step, result.epoch, result.val_loss, result.standard_error, change, base)


def _state(history: RunHistory, last_sign: datetime | None, now: datetime) -> tuple[State, str]:
    telling = [event for event in history.events if event.kind in _BEGINNINGS or event.kind in _ENDINGS]
    if telling and telling[-1].kind in _ENDINGS:
        return _ENDINGS[telling[-1].kind], _reason(telling[-1])
    if _process_is_gone(history.folder / ".lock"):
        return "silent", "its process is gone"
    durations = history.steps.seconds[np.isfinite(history.steps.seconds)]
    patience = max(SILENT_S, 20 * float(np.median(durations)) if len(durations) else 0.0)
    if last_sign is not None and (now - last_sign).total_seconds() > patience:
        return "silent", ""
    return "running", ""


def _process_is_gone(lock: Path) -> bool:
    """The lock file that a run signs is still there, and its process, of this machine, is not: it was killed."""
    if os.name != "posix":
        return False
    try:
        signed = json.loads(lock.read_text(encoding="utf-8"))
        if signed["host"] == socket.gethostname() and signed["pid"] > 0:
            os.kill(signed["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False
    return False


def _reason(event: Event) -> str:
    return str(event.details.get("reason") or event.details.get("error") or "")


def _last_sign(history: RunHistory) -> datetime | None:
    """When the run last wrote. A folder that was copied tells the time of the copy, unless the run says it is over."""
    times = [event.time for event in history.events[-1:] if event.time and event.kind in _ENDINGS]
    if times:
        return times[0]
    folder = RunFolder(history.folder)
    written = [path.stat().st_mtime for path in (folder.metrics, folder.events) if path.exists()]
    return datetime.fromtimestamp(max(written), UTC) if written else None


def _metadata(history: RunHistory) -> AdapterMetadata:
    """Of the result, or of a checkpoint while there is none; empty where neither can be read."""
    folder = RunFolder(history.folder)
    kept = [path / "adapter" for path in reversed(folder.checkpoints())]
    for place in [folder.adapter, *kept[:1]]:
        try:
            with safe_open(place / WEIGHTS, framework="numpy") as file:
                return metadata_from_header(file.metadata() or {})
        except (OSError, SafetensorError):
            continue
    return AdapterMetadata()


def _adapter(history: RunHistory) -> Path | None:
    folder = RunFolder(history.folder).adapter
    return folder if (folder / WEIGHTS).is_file() else None


def _joined(details: Any) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for one in details:
        merged |= one
    return merged


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _total(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.sum()) if len(known) else None


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def _late_mean(losses: Floats) -> float | None:
    """Over the last tenth: a single step tells its noise levels more than anything."""
    known = losses[np.isfinite(losses)]
    return float(known[-math.ceil(len(known) / 10) :].mean()) if len(known) else None
