from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from acestep.errors import InputError
from acestep.evaluation.run_report.figures import RunFigures, held_out_looks, run_figures
from acestep.evaluation.run_report.summary import change_text, facts, notes, verdict
from acestep.lora.adapter import Adapter, Factors, write_adapter
from acestep.lora.metadata import AdapterMetadata
from acestep.training.history import read_history
from acestep.training.results import ValidationResult
from acestep.training.run_folder import RunFolder
from training.test_history import record, step_result, validation_result

NOW = datetime.now(UTC)


def figures_of(folder: Path, now: datetime = NOW) -> RunFigures:
    return run_figures(read_history(folder), now=now)


def began(folder: Path) -> RunFolder:
    run = record(folder, validation_result(0, 0, 2.0), step_result(1), step_result(2), validation_result(2, 1, 1.5))
    run.add_event("started", training_tracks=8, held_out_tracks=2, trainable=1000, warnings=["few tracks"])
    return run


def test_a_change_is_paired_over_the_tracks_that_both_looks_saw() -> None:
    first = ValidationResult(0, 0, 5.0, 1.0, {"a": 1.0, "b": 9.0, "gone": 5.0})
    last = ValidationResult(10, 1, 4.0, 1.0, {"a": 0.8, "b": 8.6, "new": 100.0})
    base, look = held_out_looks([first, last])
    assert base.change is None
    assert look.change is not None
    assert look.change.value == pytest.approx(-0.3)
    assert look.change.count == 2
    # Student's quantile for one degree of freedom times the standard error of -0.2 and -0.4.
    assert look.change.high - look.change.value == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert look.share is not None
    assert look.share.value == pytest.approx(-0.3 / 5)


def test_one_track_has_a_change_and_no_interval(tmp_path: Path) -> None:
    looks = held_out_looks(
        [ValidationResult(0, 0, 2.0, None, {"a": 2.0}), ValidationResult(1, 1, 1.0, None, {"a": 1.0})]
    )
    assert change_text(looks[1]) == "50.0 % below the base's"
    record(tmp_path, ValidationResult(0, 0, 2.0, None, {"a": 2.0}), ValidationResult(1, 1, 1.0, None, {"a": 1.0}))
    found = figures_of(tmp_path)
    assert any("One track is held out" in note for note in notes(found))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["held_out"]["last"]["change"]["low"] is None


def test_the_best_look_and_the_last_are_told_apart(tmp_path: Path) -> None:
    run = began(tmp_path)
    record(tmp_path, step_result(3), validation_result(3, 2, 1.7))
    run.add_event("finished", reason="all steps are done", steps=3, seconds=6.0)
    found = figures_of(tmp_path)
    assert found.best is not None
    assert found.last is not None
    assert (found.best.epoch, found.last.epoch) == (1, 2)
    assert any("lower at epoch 1" in note for note in notes(found))
    said = verdict(found, now=NOW)
    assert said.startswith("Finished after 3 of 100 steps in 6.0 s: all steps are done.")
    assert "The best held-out loss, 1.5000 at epoch 1, lies 25.0 % below the base's" in said


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "running"),
        (["paused"], "paused"),
        (["paused", "went on"], "running"),
        (["stopped"], "stopped"),
        (["failed", "resumed"], "running"),
        (["cancelled", "checkpoint"], "cancelled"),
        (["interrupted"], "interrupted"),
    ],
)
def test_how_a_run_stands_is_what_it_said_last(tmp_path: Path, events: list[str], state: str) -> None:
    run = began(tmp_path)
    for event in events:
        run.add_event(event, reason="because")
    found = figures_of(tmp_path)
    assert found.state == state
    assert found.is_over == (state not in ("running", "paused"))


def test_a_run_that_stopped_writing_is_not_called_running(tmp_path: Path) -> None:
    run = began(tmp_path)
    assert figures_of(tmp_path, NOW + timedelta(minutes=10)).state == "running"
    long_ago = (NOW - timedelta(hours=3)).timestamp()
    for path in (run.metrics, run.events):
        os.utime(path, (long_ago, long_ago))
    found = figures_of(tmp_path)
    assert found.state == "silent"
    assert "has written nothing for 3 h 00 min" in verdict(found, now=NOW)
    assert "--resume" in verdict(found, now=NOW)


def test_a_run_that_was_killed_is_known_by_the_lock_it_left(tmp_path: Path) -> None:
    began(tmp_path)
    host = socket.gethostname()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid, where, state in ((gone.pid, host, "silent"), (os.getpid(), host, "running"), (gone.pid, "far", "running")):
        (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": where}))
        assert figures_of(tmp_path).state == state
    for nonsense in ("", "[]", '{"pid": -1}', '{"pid": 1e400, "host": "x"}', json.dumps({"pid": 10**30, "host": host})):
        (tmp_path / ".lock").write_text(nonsense)
        assert figures_of(tmp_path).state == "running"


def test_what_it_took_is_added_up(tmp_path: Path) -> None:
    began(tmp_path)
    found = figures_of(tmp_path)
    assert found.seconds == 4.0
    assert found.steps_per_second == 0.5
    assert found.audio_per_second == 10.0
    assert found.waiting_share == pytest.approx(0.05)
    assert found.memory_bytes == 10**9
    told = dict(facts(found))
    assert told["Tracks"] == "8 trained on, 2 held out"
    assert told["Throughput"] == "2.0 s a step, 10 s of audio a second"
    assert notes(found)[0] == "few tracks"


def test_the_adapter_says_which_base_it_is_for(tmp_path: Path) -> None:
    began(tmp_path)
    assert figures_of(tmp_path).adapter is None
    adapter = Adapter(
        {"block.to_q": Factors(torch.zeros(1, 3), torch.zeros(3, 1))},
        metadata=AdapterMetadata(base_fingerprint="f1", training_config_sha256="c2"),
    )
    write_adapter(tmp_path / "checkpoints" / "epoch-0001" / "adapter", adapter)
    found = figures_of(tmp_path)
    assert (found.adapter, found.base_fingerprint, found.config_sha256) == (None, "f1", "c2")
    write_adapter(tmp_path / "adapter", adapter)
    assert figures_of(tmp_path).adapter == tmp_path / "adapter"


def test_a_run_without_a_line_has_nothing_to_report(tmp_path: Path) -> None:
    RunFolder(tmp_path).add_event("started", total_steps=5)
    with pytest.raises(InputError, match="no metrics yet"):
        figures_of(tmp_path)


def test_a_run_of_an_older_version_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    found = figures_of(tmp_path)
    assert (found.seconds, found.memory_bytes, found.total_steps) == (None, None, None)
    assert "Its training loss over the last tenth of its steps is 0.5000." in verdict(found, now=NOW)
    assert any("No track is held out" in note for note in notes(found))
    json.dumps(found.as_dict(), allow_nan=False)
