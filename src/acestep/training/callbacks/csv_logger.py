"""A run's numbers as a table that every spreadsheet opens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO

from acestep.training.callbacks.figures import Figures
from acestep.training.callbacks.logger import LoggerCallback
from acestep.training.results import RunInfo

COLUMNS = {
    "epoch": "train/epoch",
    "loss": "train/loss",
    "val_loss": "val/loss",
    "standard_error": "val/standard_error",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "step_s": "speed/step_s",
    "music_s_per_s": "speed/music_s_per_s",
    "waiting_share": "speed/waiting_share",
    "memory_gb": "speed/memory_gb",
    "likeness": "samples/likeness",
}
"""Headings after `step`, and the figures under them (figures.py)."""


class CsvCallback(LoggerCallback):
    """Writes `metrics.csv` into the run folder, or to `path`: a row for each step, validation and round of samples.

    A resumed run drops the rows of steps that come again.
    """

    name = "csv"

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self.path = None if path is None else Path(path)
        self._file: IO[str] | None = None

    def open(self, run: RunInfo) -> None:
        path = self.path or run.folder / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _rows_until(path, run.step) if run.step else []
        partial = path.with_name(path.name + ".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["step", *COLUMNS], *kept])
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8", newline="")

    def write(self, step: int, figures: Figures) -> None:
        assert self._file is not None
        csv.writer(self._file).writerow([step, *(figures.get(name, "") for name in COLUMNS.values())])
        self._file.flush()

    def close(self, *, succeeded: bool) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Whole rows of steps up to that one; what a crash cut off is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.reader(line.replace("\0", "") for line in file))
    return [row for row in rows if len(row) == 1 + len(COLUMNS) and row[0].isdecimal() and int(row[0]) <= step]
