"""The run folder: where a run keeps its settings, record, checkpoints and result."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acestep.errors import TrainingError


class RunFolder:
    """Paths of one run, and the two files that grow line by line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.adapter = self.path / "adapter"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"

    def start(self, config_yaml: str, *, resume: bool) -> None:
        """Make the folder, or take it over; TrainingError where a run is in it that is not to be resumed."""
        if not resume and (self.metrics.exists() or self.checkpoints()):
            raise TrainingError(
                f"{self.path} holds a run already; resume it (--resume), or give another output_dir, or delete it"
            )
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            (self.path / "config.yaml").write_text(config_yaml, encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def checkpoint(self, *, epoch: int, step: int, whole_epoch: bool) -> Path:
        """epoch-0010 after a whole epoch, epoch-0010-step-000123 inside one."""
        name = f"epoch-{epoch:04}" if whole_epoch else f"epoch-{epoch:04}-step-{step:06}"
        return self.path / "checkpoints" / name

    def checkpoints(self) -> list[Path]:
        """Complete ones; half-written ones carry another suffix."""
        folder = self.path / "checkpoints"
        return sorted(path for path in folder.glob("epoch-*") if path.is_dir() and "." not in path.name)

    def add_metrics(self, **values: Any) -> None:
        _append(self.metrics, values)

    def add_event(self, event: str, **values: Any) -> None:
        _append(self.events, {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values})

    def forget_after(self, step: int) -> None:
        """Drop metrics of steps that a resumed run is going to repeat, and a line that a crash left half-written."""
        if not self.metrics.exists():
            return
        kept = [line for line in self.metrics.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        partial = self.metrics.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        partial.replace(self.metrics)

    @contextmanager
    def logging_to_file(self) -> Iterator[None]:
        """What acestep's modules log goes to log.txt as well, as long as the block lasts."""
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("acestep")
        level = logger.level
        logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            handler.close()


def _append(path: Path, values: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
