"""What a person asks of a run from outside: by signal, or by a word in the run folder's `control` file.

A wish is noted at once and carried out by the loop between two batches, so nothing is ever left half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

from acestep.errors import InputError, TrainingError

Command = Literal["run", "pause", "cancel"]
"""What can be written into the control file."""
Wish = Literal["run", "pause", "cancel", "stop", "interrupt"]
"""Those, and what signals add: SIGTERM stops, Ctrl-C interrupts."""


class RunCommands:
    """The latest wish, whichever way it came."""

    def __init__(self, control: Path) -> None:
        self.control = control
        self._wish: Wish = "run"
        self._read_at = self._stamp()

    def wish(self) -> Wish:
        """What is wanted now. Ctrl-C and SIGTERM cannot be taken back."""
        if self._wish in ("run", "pause") and (stamp := self._stamp()) != self._read_at:
            self._read_at = stamp
            self.ask(_read(self.control))
        return self._wish

    def ask(self, wish: Wish) -> None:
        """Wish for something, as a signal or the control file does."""
        self._wish = wish

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self.control.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


@contextmanager
def hearing_signals(commands: RunCommands) -> Iterator[None]:
    """In the block Ctrl-C interrupts, SIGTERM stops, SIGUSR1 pauses, SIGUSR2 goes on; a second Ctrl-C is Python's.

    Only the main thread receives signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wishes: dict[str, Wish] = {"SIGINT": "interrupt", "SIGTERM": "stop", "SIGUSR1": "pause", "SIGUSR2": "run"}
    # Windows has the first two alone.
    heard = {getattr(signal, name): wish for name, wish in wishes.items() if hasattr(signal, name)}
    before = {number: signal.getsignal(number) for number in heard}
    for number in heard:
        signal.signal(number, _asking(commands, heard, before[signal.SIGINT]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_run(folder: str | Path, command: Command) -> Path:
    """Write a command for the run in `folder`; it is obeyed after the batch at work -> the control file.

    Raises InputError for another word, TrainingError where the folder holds no run.
    """
    if command not in get_args(Command):
        raise InputError(f"{command!r} is no command; write one of {', '.join(get_args(Command))}")
    control = Path(folder) / "control"
    if not (control.parent / "config.yaml").is_file():
        raise TrainingError(f"{folder} holds no run; give the output_dir of a training")
    partial = control.with_suffix(".partial")
    try:
        partial.write_text(f"{command}\n", encoding="utf-8")
        partial.replace(control)
    except OSError as error:
        raise TrainingError(f"{control} cannot be written: {error.strerror or error}") from error
    return control


def _asking(
    commands: RunCommands, heard: Mapping[int, Wish], python_interrupt: object
) -> Callable[[int, FrameType | None], None]:
    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, python_interrupt)  # type: ignore[arg-type]
        commands.ask(heard[number])

    return ask


def _read(control: Path) -> Command:
    """The file's word; anything else, a file half-written by another program included, changes nothing: run."""
    try:
        word = control.read_text(encoding="utf-8", errors="replace")[:20].strip().lower()
    except OSError:
        return "run"
    return next((command for command in get_args(Command) if command == word), "run")
