"""A run as its folder tells it: metrics.jsonl, events.jsonl and config.yaml, read back for everything that shows a run.

Lines are read one at a time and kept as columns of numbers, so 100,000 steps of eight examples are 40 MB and not a
million objects. What a crash left half-written, or an older version did not write yet, is passed over.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from acestep.errors import InputError
from acestep.training.results import Sample, SamplesResult, SigmaBin, ValidationResult
from acestep.training.run_folder import RunFolder

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MEASURES = ("loss", "learning_rate", "grad_norm", "audio_s", "seconds", "waiting_s", "memory_bytes")
# Beyond it a float no longer tells two whole numbers apart; no step is there.
_MAX_WHOLE = 2**53


@dataclass(frozen=True)
class ExampleColumns:
    """All examples of all steps. row: which step each belongs to, as an index into the steps; track: into `tracks`."""

    row: Ints
    track: Ints
    sigma: Floats
    loss: Floats
    tracks: tuple[str, ...]


@dataclass(frozen=True)
class StepColumns:
    """`StepResult`s, (steps,) each and in the order of steps; NaN where a line did not say."""

    step: Ints
    epoch: Ints
    loss: Floats
    learning_rate: Floats
    grad_norm: Floats
    audio_s: Floats
    seconds: Floats
    waiting_s: Floats
    memory_bytes: Floats
    examples: ExampleColumns

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True)
class Event:
    """A line of events.jsonl. time: in UTC, None where the line has none that can be read."""

    kind: str
    time: datetime | None
    details: Mapping[str, Any]


@dataclass(frozen=True)
class RunHistory:
    """What is known about a run.

    eta_s, eta_range_s: what the last step foresaw; config: empty where config.yaml is not there or not YAML;
    unreadable: lines in the middle that are no records.
    """

    folder: Path
    steps: StepColumns
    validations: tuple[ValidationResult, ...]
    samples: tuple[SamplesResult, ...]
    events: tuple[Event, ...]
    config: Mapping[str, Any]
    config_text: str
    total_steps: int | None
    epochs: int | None
    eta_s: float | None
    eta_range_s: tuple[float, float] | None
    unreadable: int


def read_history(folder: str | Path) -> RunHistory:
    """Read a run folder, of a run that is over or still goes on; InputError where it is none or cannot be read.

    A step that was recorded twice, before a crash and after the resume, counts as it was the second time.
    """
    run = RunFolder(folder)
    if not run.path.is_dir():
        raise InputError(f"there is no folder {run.path}; give a run folder: the output_dir of a training")
    if not run.metrics.is_file() and not run.events.is_file():
        raise InputError(
            f"{run.path} is no run folder: it has no metrics.jsonl; give the output_dir of a training's config"
        )
    gathered = _Gathered()
    metrics = _Lines(run.metrics)
    for line in metrics:
        gathered.take(line, run.path)
    events = _Lines(run.events)
    told = tuple(_event(line) for line in events if isinstance(line.get("event"), str))
    text = _text(run.path / "config.yaml")
    started = [event.details for event in told if event.kind in ("started", "resumed")]
    return RunHistory(
        folder=run.path,
        steps=gathered.columns(),
        validations=tuple(gathered.validations),
        samples=tuple(gathered.samples),
        events=told,
        config=_config(text),
        config_text=text,
        total_steps=_last_whole([*started, gathered.last], "total_steps"),
        epochs=_last_whole([*started, gathered.last], "epochs"),
        eta_s=_finite(gathered.last.get("eta_s")),
        eta_range_s=_pair(gathered.last.get("eta_range_s")),
        unreadable=metrics.unreadable + events.unreadable,
    )


@dataclass
class _Gathered:
    """Columns while they grow; arrays, because a list of Python numbers takes four times the memory."""

    step: array[int] = field(default_factory=lambda: array("q"))
    epoch: array[int] = field(default_factory=lambda: array("q"))
    measures: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in _MEASURES})
    row: array[int] = field(default_factory=lambda: array("q"))
    track: array[int] = field(default_factory=lambda: array("q"))
    sigma: array[float] = field(default_factory=lambda: array("d"))
    example_loss: array[float] = field(default_factory=lambda: array("d"))
    tracks: dict[str, int] = field(default_factory=dict)
    validations: list[ValidationResult] = field(default_factory=list)
    samples: list[SamplesResult] = field(default_factory=list)
    last: Mapping[str, Any] = field(default_factory=dict)

    def take(self, line: Mapping[str, Any], folder: Path) -> None:
        step = _whole(line.get("step"))
        if step is None:
            return
        if "loss" in line:
            self._forget_from(step)
            self._add_step(step, line)
        elif "val_loss" in line:
            result = _validation(step, line)
            if result is not None:
                self.validations = [old for old in self.validations if old.step != step] + [result]
        elif "samples" in line:
            self.samples = [old for old in self.samples if old.step != step] + [_samples(step, line, folder)]

    def columns(self) -> StepColumns:
        measures = {name: np.array(values, dtype=np.float64) for name, values in self.measures.items()}
        return StepColumns(
            step=np.array(self.step, dtype=np.int64),
            epoch=np.array(self.epoch, dtype=np.int64),
            examples=ExampleColumns(
                row=np.array(self.row, dtype=np.int64),
                track=np.array(self.track, dtype=np.int64),
                sigma=np.array(self.sigma, dtype=np.float64),
                loss=np.array(self.example_loss, dtype=np.float64),
                tracks=tuple(self.tracks),
            ),
            **measures,
        )

    def _add_step(self, step: int, line: Mapping[str, Any]) -> None:
        row = len(self.step)
        self.step.append(step)
        self.epoch.append(_whole(line.get("epoch")) or 0)
        for name, values in self.measures.items():
            values.append(_number(line.get(name)))
        for example in _mappings(line.get("examples")):
            self.row.append(row)
            self.track.append(self.tracks.setdefault(str(example.get("track", "")), len(self.tracks)))
            self.sigma.append(_number(example.get("sigma")))
            self.example_loss.append(_number(example.get("loss")))
        self.last = line

    def _forget_from(self, step: int) -> None:
        """A resumed run repeats what came after its checkpoint, validations included."""
        if not self.step or self.step[-1] < step:
            return
        rows = bisect_left(self.step, step)
        kept = bisect_left(self.row, rows)
        for whole in (self.step, self.epoch):
            del whole[rows:]
        for values in self.measures.values():
            del values[rows:]
        for index in (self.row, self.track):
            del index[kept:]
        for values in (self.sigma, self.example_loss):
            del values[kept:]
        self.validations = [result for result in self.validations if result.step < step]
        self.samples = [result for result in self.samples if result.step < step]


class _Lines:
    """The JSON objects of a file, one a line. unreadable: other lines, but for a last one that is being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if not line.strip():
                        continue
                    try:
                        value = json.loads(line)
                    # A file of noise can nest deeper than the parser goes.
                    except (ValueError, RecursionError):
                        value = None
                    if isinstance(value, dict):
                        yield value
                    elif line.endswith(b"\n"):
                        self.unreadable += 1
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error


def _validation(step: int, line: Mapping[str, Any]) -> ValidationResult | None:
    loss = _finite(line.get("val_loss"))
    if loss is None:
        return None
    by_track = line.get("by_track")
    pairs = by_track.items() if isinstance(by_track, dict) else ()
    bins = [
        SigmaBin(_number(one.get("sigma")), _number(one.get("val_loss")), _finite(one.get("standard_error")))
        for one in _mappings(line.get("by_sigma"))
    ]
    return ValidationResult(
        step=step,
        epoch=_whole(line.get("epoch")) or 0,
        val_loss=loss,
        standard_error=_finite(line.get("standard_error")),
        by_track={str(name): _number(value) for name, value in pairs if _finite(value) is not None},
        by_sigma=tuple(one for one in bins if math.isfinite(one.sigma) and math.isfinite(one.val_loss)),
    )


def _samples(step: int, line: Mapping[str, Any], folder: Path) -> SamplesResult:
    songs = tuple(
        Sample(
            prompt=str(one.get("prompt", "")),
            lyrics=str(one.get("lyrics") or ""),
            seed=_whole(one.get("seed")) or 0,
            path=_inside(folder, one.get("path")),
            base_path=_inside(folder, one.get("base_path")),
        )
        for one in _mappings(line.get("samples"))
    )
    return SamplesResult(
        step=step,
        epoch=_whole(line.get("epoch")) or 0,
        folder=_inside(folder, line.get("folder")),
        samples=songs,
        likeness=_finite(line.get("likeness")),
    )


def _inside(folder: Path, told: object) -> Path:
    """Where a recorded file lies now: a run folder may have been moved, or read from another working directory."""
    path = Path(str(told or ""))
    parts = path.parts
    if "samples" in parts:
        last = len(parts) - 1 - parts[::-1].index("samples")
        return folder.joinpath(*parts[last:])
    return path if path.is_absolute() else folder / path


def _event(line: Mapping[str, Any]) -> Event:
    details = {name: value for name, value in line.items() if name not in ("event", "time")}
    try:
        time = datetime.fromisoformat(str(line.get("time")))
    except ValueError:
        return Event(line["event"], None, details)
    return Event(line["event"], time if time.tzinfo else time.replace(tzinfo=UTC), details)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _config(text: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _mappings(values: object) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _last_whole(sources: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return next((found for source in reversed(sources) if (found := _whole(source.get(name))) is not None), None)


def _whole(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_WHOLE
    return value if is_whole and isinstance(value, int) else None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _finite(value: object) -> float | None:
    number = _number(value)
    return number if math.isfinite(number) else None


def _pair(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = _finite(value[0]), _finite(value[1])
    return None if low is None or high is None else (low, high)
