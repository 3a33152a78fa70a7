"""The run folder: where a run keeps its settings, record, checkpoints and result."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from typing import Any

from acestep.errors import InputError, TrainingError
from acestep.training.folder_lock import folder_lock, is_held

logger = logging.getLogger(__name__)

_CONFIG_HEAD = "# The settings of the run in this folder, defaults included."
_CHECKPOINT_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")
# The first two are lora/whole_folder.py's, the third prune_checkpoints'.
_LEFTOVER_SUFFIXES = {".partial", ".replaced", ".deleted"}


class RunFolder:
    """Paths of one run, and the two files that grow line by line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.control = self.path / "control"
        self.samples = self.path / "samples"
        self.adapter = self.path / "adapter"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self._checkpoints = self.path / "checkpoints"
        self._settings_to_be: str | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one run, made where it is not there, and clear away what killed writers left in it.

        TrainingError, naming process and machine, where a run holds it; a run that is killed holds nothing.
        """
        with ExitStack() as held:
            with _writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(folder_lock(self.path / ".lock"))
            self._clear_leftovers()
            yield

    @property
    def is_in_use(self) -> bool:
        """Whether a run goes on here now, a paused one too."""
        return is_held(self.path / ".lock")

    @property
    def holds_run(self) -> bool:
        """Whether a run got as far as its first step here."""
        return self.metrics.exists() or bool(self.checkpoints())

    def start(self, config_yaml: str, *, resume: bool) -> None:
        """Make the folder, or take it over.

        TrainingError where a run is in it that is not to be resumed, where no run wrote its config.yaml, and where it
        cannot be written. Resuming what has not begun is a start, and a warning in the log. The settings of a resumed
        run are written once it goes on (`forget_after`): one that is refused leaves the folder true.
        """
        with _writing(self.path):
            begun = self.holds_run
            if begun and not resume:
                raise TrainingError(
                    f"{self.path} holds a run already; resume it (--resume), or give another output_dir, or delete it"
                )
            if not begun and self.config.exists() and not _is_runs(self.config):
                raise TrainingError(f"{self.config} would be overwritten, and no run wrote it; give another output_dir")
            if resume and not begun:
                logger.warning("%s holds no run to resume; one starts there now", self.path)
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            settings = f"{_CONFIG_HEAD}\n{config_yaml}"
            if begun and self.config.exists():
                self._settings_to_be = settings
            else:
                _replace(self.config, settings)

    def checkpoint(self, *, epoch: int, step: int, whole_epoch: bool) -> Path:
        """epoch-0010 after a whole epoch, epoch-0010-step-000123 inside one."""
        name = f"epoch-{epoch:04}" if whole_epoch else f"epoch-{epoch:04}-step-{step:06}"
        return self._checkpoints / name

    def checkpoints(self) -> list[Path]:
        """Complete ones, the oldest first; half-written and half-deleted ones carry another suffix."""
        return sorted((path for path in self._checkpoints.glob("epoch-*") if _is_checkpoint(path)), key=_progress)

    def prune_checkpoints(self, keep: int, *, sparing: Path | None = None) -> list[Path]:
        """Delete all but the `keep` newest, and `sparing` -> the deleted. What killed writers left goes too.

        A checkpoint loses its name first, so that none is ever seen half. One that cannot be deleted is a warning in
        the log and no end of a run. Only for the holder of the lock: another's unfinished work looks like a leftover.
        """
        if keep < 1:
            raise InputError(f"at least one checkpoint is to be kept, {keep} was asked for")
        deleted = []
        for path in self.checkpoints()[:-keep]:
            if sparing is not None and path.name == sparing.name:
                continue
            try:
                path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.deleted"))
            except OSError as error:
                logger.warning("the old checkpoint %s could not be deleted: %s", path, error)
            else:
                deleted.append(path)
        self._clear_leftovers()
        return deleted

    def _clear_leftovers(self) -> None:
        """Folders that were being written, replaced or deleted when their process died."""
        found = [
            *self._checkpoints.glob("epoch-*.*"),
            *self.samples.glob("*.*"),
            *self.path.glob(f"{self.adapter.name}.*"),
        ]
        for path in found:
            if path.suffix not in _LEFTOVER_SUFFIXES or not path.is_dir():
                continue
            whole = path.with_name(path.name.partition(".")[0])
            try:
                if path.suffix == ".replaced" and not whole.exists():
                    # Its writer died between the two renames of whole_folder.py: this is the last whole one.
                    path.rename(whole)
                else:
                    shutil.rmtree(path)
            except OSError as error:
                logger.warning("%s is left over and could not be cleared away: %s", path, error)

    def add_metrics(self, **values: Any) -> None:
        _append(self.metrics, values)

    def add_event(self, event: str, **values: Any) -> None:
        _append(self.events, {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **values})

    def forget_after(self, step: int) -> None:
        """A resumed run goes on from there: its settings are the folder's now, and metrics of steps that it is going to
        repeat are dropped, with a line that a crash left half-written."""
        if self._settings_to_be is not None:
            with _writing(self.config):
                _replace(self.config, self._settings_to_be)
            self._settings_to_be = None
        if not self.metrics.exists():
            return
        with _writing(self.metrics):
            # Not splitlines, which also breaks lines at characters that JSON leaves inside strings.
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
            kept = [line for line in lines if _step_of(line) <= step]
            _replace(self.metrics, "".join(f"{line}\n" for line in kept))

    @contextmanager
    def logging_to_file(self) -> Iterator[None]:
        """What acestep's modules log goes to log.txt as well, as long as the block lasts."""
        with _writing(self.path / "log.txt"):
            handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8", errors="backslashreplace")
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
    """A line, whole or not at all; TrainingError where the disk does not take it."""
    # A name that is no Unicode is written as JSON's own escape, which reads back equal.
    line = json.dumps(values, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
    with _writing(path), path.open("ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and not _ends_a_line(file, size):
            line = b"\n" + line
        try:
            written = file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


def _ends_a_line(file: RawIOBase, size: int) -> bool:
    # A process that was killed in the middle of a line leaves its half; only that half shall be lost.
    file.seek(size - 1)
    return file.read(1) == b"\n"


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system refuses inside the block becomes a TrainingError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        file = next((parent for parent in (path, *path.parents) if _is_file(parent)), None)
        if file is not None and file != path:
            raise TrainingError(f"{path} cannot be written: {file} is a file; give another output_dir") from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise TrainingError(f"{path} is a file, a folder is wanted; give another output_dir") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TrainingError(f"{path} cannot be written: {reason}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_runs(config: Path) -> bool:
    return config.read_bytes().startswith(_CONFIG_HEAD.encode())


def _is_checkpoint(path: Path) -> bool:
    return _CHECKPOINT_NAME.fullmatch(path.name) is not None and path.is_dir()


def _progress(path: Path) -> tuple[int, float]:
    """What sorts checkpoints by age: epoch, and step in it, a whole epoch being after all its steps."""
    found = _CHECKPOINT_NAME.fullmatch(path.name)
    assert found is not None
    epoch, step = found.groups()
    return int(epoch), float("inf") if step is None else int(step)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
