import os
import signal
import threading
from pathlib import Path

import pytest

from acestep.errors import InputError, TrainingError
from acestep.training.commands import RunCommands, command_run, hearing_signals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("")
    return tmp_path


def send(name: signal.Signals) -> None:
    os.kill(os.getpid(), name)


def test_the_first_ctrl_c_is_noted_and_the_second_one_interrupts(folder: Path):
    commands = RunCommands(folder / "control")
    with hearing_signals(commands):
        assert commands.wish() == "run"
        send(signal.SIGINT)
        assert commands.wish() == "interrupt"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_signals_pause_go_on_and_stop(folder: Path):
    commands = RunCommands(folder / "control")
    with hearing_signals(commands):
        wishes = []
        for name in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            send(name)
            wishes.append(commands.wish())
    assert wishes == ["pause", "run", "stop"]


def test_handlers_are_put_back(folder: Path):
    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(name) for name in heard]
    with hearing_signals(RunCommands(folder / "control")):
        assert all(signal.getsignal(name) is not old for name, old in zip(heard, before, strict=True))
        send(signal.SIGINT)
    assert [signal.getsignal(name) for name in heard] == before


def test_other_threads_are_left_as_they_are(folder: Path):
    seen: list[object] = []

    def work() -> None:
        with hearing_signals(RunCommands(folder / "control")):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_the_control_file_pauses_goes_on_and_cancels(folder: Path):
    commands = RunCommands(folder / "control")
    for command in ("pause", "run", "pause", "cancel"):
        command_run(folder, command)  # type: ignore[arg-type]
        assert commands.wish() == command
    command_run(folder, "run")
    assert commands.wish() == "cancel"


def test_the_later_of_a_signal_and_a_word_counts(folder: Path):
    commands = RunCommands(folder / "control")
    command_run(folder, "pause")
    assert commands.wish() == "pause"
    commands.ask("run")
    assert commands.wish() == "run"


def test_a_word_from_before_the_run_is_not_obeyed(folder: Path):
    command_run(folder, "cancel")
    assert RunCommands(folder / "control").wish() == "run"


@pytest.mark.parametrize("content", [b"", b"pau", b"\xff\xfe\x00", b"delete everything " * 10_000, b"PAUSE\n"])
def test_what_is_no_command_changes_nothing(folder: Path, content: bytes):
    commands = RunCommands(folder / "control")
    (folder / "control").write_bytes(content)
    assert commands.wish() == ("pause" if content == b"PAUSE\n" else "run")


def test_commands_for_no_run_and_words_that_are_none_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="'stop' is no command; write one of run, pause, cancel"):
        command_run(folder, "stop")  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="holds no run"):
        command_run(tmp_path / "elsewhere", "pause")
