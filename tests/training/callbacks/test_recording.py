import json
import logging
from pathlib import Path

import pytest

from acestep.training.callbacks import RecordingCallback
from acestep.training.history import read_history
from acestep.training.results import ExampleLoss
from acestep.training.run_folder import RunFolder
from made_results import RememberingControl, run_info, samples_result, step_result, summary, validation_result

CONTROL = RememberingControl()


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_record_is_lines_of_json_in_the_order_of_what_happened(tmp_path: Path):
    folder = RunFolder(tmp_path)
    callback = RecordingCallback(folder)
    callback.on_start(run_info(tmp_path), CONTROL)
    callback.on_validation(validation_result(0, [0.9]), CONTROL)
    callback.on_step(step_result(1, 0.8), CONTROL)
    callback.on_event("diagnosis", {"kind": "overfitting", "message": "tracks «Ä» stand out"})
    callback.on_failure(KeyboardInterrupt())
    metrics, events = rows(folder.metrics), rows(folder.events)
    assert [(row["step"], row.get("val_loss"), row.get("loss")) for row in metrics] == [(0, 0.9, None), (1, None, 0.8)]
    assert [row["event"] for row in events] == ["started", "diagnosis", "interrupted"]
    assert events[0]["warnings"] == ["tracks are few"]
    assert events[1]["message"] == "tracks «Ä» stand out"


def test_what_was_recorded_is_read_back(tmp_path: Path):
    callback = RecordingCallback(RunFolder(tmp_path))
    results = [validation_result(0, [0.9, 0.8]), validation_result(1, [0.7, 0.75], step=2)]
    callback.on_validation(results[0], CONTROL)
    for step in (1, 2):
        callback.on_step(step_result(step, 0.8 / step), CONTROL)
    callback.on_validation(results[1], CONTROL)
    callback.on_samples(samples_result(tmp_path), CONTROL)
    callback.on_end(summary(tmp_path))
    history = read_history(tmp_path)
    assert history.validations == tuple(results)
    assert history.steps.loss.tolist() == [0.8, 0.4]
    assert history.steps.examples.loss.tolist() == [0.8, 0.4]
    assert history.samples == (samples_result(tmp_path),)
    assert [event.kind for event in history.events] == ["finished"]


def test_songs_are_named_from_the_run_folder_on_so_that_it_can_be_moved(tmp_path: Path):
    (tmp_path / "here").mkdir()
    RecordingCallback(RunFolder(tmp_path / "here")).on_samples(samples_result(tmp_path / "here"), CONTROL)
    row = rows(tmp_path / "here" / "metrics.jsonl")[0]
    assert row["folder"] == "samples/epoch-0010"
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_history(tmp_path / "there").samples == (samples_result(tmp_path / "there"),)


def test_examples_take_little_room(tmp_path: Path):
    callback = RecordingCallback(RunFolder(tmp_path))
    eight = tuple(ExampleLoss(f"track_{i:03}.wav", i / 7, 1 / 3) for i in range(8))
    callback.on_step(step_result(1, 1 / 3, examples=eight), CONTROL)
    assert (tmp_path / "metrics.jsonl").stat().st_size < 1000
    assert rows(tmp_path / "metrics.jsonl")[0]["loss"] == 1 / 3


def test_a_failure_is_in_the_log_file_and_not_told_a_second_time(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="acestep"):
        RecordingCallback(RunFolder(tmp_path)).on_failure(RuntimeError("the disk is full"))
    [record] = caplog.records
    assert "the disk is full" in record.getMessage()
    assert record.levelno < logging.WARNING
