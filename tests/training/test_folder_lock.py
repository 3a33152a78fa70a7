import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from acestep.errors import TrainingError
from acestep.training import folder_lock as module
from acestep.training.folder_lock import folder_lock, is_held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
FORK = multiprocessing.get_context("fork") if sys.platform != "win32" else multiprocessing.get_context()


def hold(path: Path, told: Connection) -> None:
    with folder_lock(path):
        told.send("held")
        told.recv()
    told.send("given back")
    told.recv()


def count_up(path: Path, counter: Path, times: int) -> None:
    for _ in range(times):
        while True:
            try:
                with folder_lock(path):
                    counter.write_text(str(int(counter.read_text()) + 1))
                break
            except TrainingError:
                pass


def started(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def test_a_folder_that_is_held_names_the_process_and_machine_that_hold_it(tmp_path: Path):
    ours, theirs = FORK.Pipe()
    process = started(hold, tmp_path / ".lock", theirs)
    assert ours.recv() == "held"
    with pytest.raises(TrainingError, match=rf"process {process.pid} on {socket.gethostname()}, since 20"):
        folder_lock(tmp_path / ".lock").__enter__()
    ours.send("go")
    assert ours.recv() == "given back"
    with folder_lock(tmp_path / ".lock"):
        pass
    assert list(tmp_path.iterdir()) == []
    ours.send("end")
    process.join()


def test_kill_9_gives_it_back(tmp_path: Path):
    ours, theirs = FORK.Pipe()
    process = started(hold, tmp_path / ".lock", theirs)
    assert ours.recv() == "held"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (tmp_path / ".lock").exists()
    with folder_lock(tmp_path / ".lock"):
        pass


def test_one_process_cannot_hold_it_twice_either_and_an_error_gives_it_back(tmp_path: Path):
    with folder_lock(tmp_path / ".lock"), pytest.raises(TrainingError, match=f"process {os.getpid()} "):
        folder_lock(tmp_path / ".lock").__enter__()
    with pytest.raises(KeyError), folder_lock(tmp_path / ".lock"):
        raise KeyError
    refused = []

    def other_thread() -> None:
        try:
            with folder_lock(tmp_path / ".lock"):
                pass
        except TrainingError:
            refused.append(True)

    with folder_lock(tmp_path / ".lock"):
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert refused == [True]


def test_processes_that_take_and_remove_it_all_the_time_never_hold_it_together(tmp_path: Path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [started(count_up, tmp_path / ".lock", counter, 100) for _ in range(4)]
    for process in processes:
        process.join()
    assert counter.read_text() == "400"


def test_a_file_system_without_locks_is_warned_about_and_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def unsupported(descriptor: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module, "_lock", unsupported)
    with folder_lock(tmp_path / ".lock"):
        assert "do not start a second run" in caplog.text


def test_a_holder_that_did_not_say_who_it_is_still_holds(tmp_path: Path):
    with folder_lock(tmp_path / ".lock"):
        (tmp_path / ".lock").write_text("{")
        with pytest.raises(TrainingError, match="another process trains in it"):
            folder_lock(tmp_path / ".lock").__enter__()


def test_who_asks_whether_a_folder_is_held_takes_nothing(tmp_path: Path):
    path = tmp_path / ".lock"
    assert not is_held(path)
    with folder_lock(path):
        assert is_held(path)
        assert is_held(path)
    assert not is_held(path)
    path.write_text("of a run that was killed")
    assert not is_held(path)
    with folder_lock(path):
        pass
