from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestep.errors import InputError
from acestep.training.history import read_history
from acestep.training.results import (
    ExampleLoss,
    Sample,
    SamplesResult,
    SigmaBin,
    StepResult,
    ValidationResult,
)
from acestep.training.run_folder import RunFolder


def step_result(step: int, **changes: Any) -> StepResult:
    result = StepResult(
        step=step,
        total_steps=100,
        epoch=1 + step // 10,
        epochs=10,
        loss=1.0 / step,
        learning_rate=1e-4,
        grad_norm=0.5,
        examples=(ExampleLoss("a", 0.25, 0.5), ExampleLoss(f"ü{step}", 0.75, 1.5)),
        audio_s=20.0,
        seconds=2.0,
        waiting_s=0.1,
        memory_bytes=10**9,
        eta_s=5.0,
        eta_range_s=(4.0, 6.0),
    )
    return replace(result, **changes)


def validation_result(step: int, epoch: int, loss: float) -> ValidationResult:
    tracks = {"ä/1": loss - 0.1, "2": loss + 0.1}
    return ValidationResult(step, epoch, loss, 0.1, tracks, (SigmaBin(0.5, loss, None),))


def record(folder: Path, *results: Any) -> RunFolder:
    """Lines as a run writes them: the results' fields."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True, exist_ok=True)
    with run.metrics.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(result), default=str) + "\n" for result in results)
    return run


def test_what_a_run_wrote_is_read_back_equal(tmp_path: Path) -> None:
    song = Sample("lofi", "la", 3, tmp_path / "samples/epoch-0001/a.flac", tmp_path / "samples/base/a.flac")
    samples = SamplesResult(2, 1, tmp_path / "samples/epoch-0001", (song,), 0.25)
    validations = (validation_result(0, 0, 2.0), validation_result(2, 1, 1.5))
    run = record(tmp_path, validations[0], step_result(1), step_result(2), validations[1], samples)
    run.add_event("started", total_steps=100, epochs=10)
    run.add_event("checkpoint", path="epoch-0001")
    (tmp_path / "config.yaml").write_text("lora: {rank: 4}\n")

    history = read_history(tmp_path)
    assert history.validations == validations
    assert history.samples == (samples,)
    assert history.steps.step.tolist() == [1, 2]
    assert history.steps.loss.tolist() == [1.0, 0.5]
    assert history.steps.memory_bytes.tolist() == [1e9, 1e9]
    examples = history.steps.examples
    assert [examples.tracks[index] for index in examples.track] == ["a", "ü1", "a", "ü2"]
    assert examples.row.tolist() == [0, 0, 1, 1]
    assert examples.sigma.tolist() == [0.25, 0.75] * 2
    assert [event.kind for event in history.events] == ["started", "checkpoint"]
    assert history.events[1].details == {"path": "epoch-0001"}
    assert history.events[0].time is not None
    assert history.config == {"lora": {"rank": 4}}
    assert (history.total_steps, history.epochs) == (100, 10)
    assert (history.eta_s, history.eta_range_s) == (5.0, (4.0, 6.0))
    assert history.unreadable == 0


def test_a_line_that_is_being_written_is_no_problem_and_a_broken_one_is_counted(tmp_path: Path) -> None:
    run = record(tmp_path, step_result(1))
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 2, "lo\n[1, 2]\n\xff\xfe\n' + b"[" * 100_000 + b'\n{"step": 3, "loss"')
    history = read_history(tmp_path)
    assert len(history.steps) == 1
    assert history.unreadable == 4


def test_a_step_that_was_repeated_after_a_crash_counts_once(tmp_path: Path) -> None:
    record(tmp_path, *[step_result(step) for step in (1, 2, 3)], validation_result(2, 1, 1.0))
    record(tmp_path, validation_result(3, 1, 1.5), step_result(2, loss=7.0), validation_result(2, 1, 2.0))
    record(tmp_path, step_result(3, loss=8.0))
    history = read_history(tmp_path)
    assert history.steps.step.tolist() == [1, 2, 3]
    assert history.steps.loss.tolist() == [1.0, 7.0, 8.0]
    assert history.steps.examples.row.tolist() == [0, 0, 1, 1, 2, 2]
    assert [(result.step, result.val_loss) for result in history.validations] == [(2, 2.0)]


def test_lines_of_an_older_version_have_gaps_and_not_errors(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text(
        '{"step": 1, "loss": 0.5, "examples": 4}\n'
        '{"step": 1, "val_loss": 0.6}\n'
        '{"step": 2, "loss": "high", "grad_norm": null, "seconds": true, "eta_range_s": [1]}\n'
        '{"step": -1, "loss": 1}\n{"step": 1e300, "loss": 1}\n{"loss": 1}\n'
        '{"step": 3, "loss": NaN, "memory_bytes": 1' + "0" * 400 + "}\n"
        '{"step": 3, "val_loss": NaN}\n'
    )
    run.events.write_text('{"event": "paused"}\n{"event": 3}\n{"time": "x"}\n{"event": "old", "time": "2024-01-01"}\n')
    history = read_history(tmp_path)
    assert history.steps.step.tolist() == [1, 2, 3]
    assert history.steps.loss[0] == 0.5
    assert np.isnan(history.steps.loss[1:]).all()
    assert np.isnan(history.steps.seconds).all()
    assert math.isnan(history.steps.memory_bytes[2])
    assert len(history.steps.examples.row) == 0
    assert [result.by_track for result in history.validations] == [{}]
    assert [event.kind for event in history.events] == ["paused", "old"]
    assert history.events[1].time is not None
    assert history.events[1].time.tzinfo is not None


def test_songs_are_found_where_the_folder_is_now(tmp_path: Path) -> None:
    song = Sample("lofi", "", 0, Path("lora_output/samples/epoch-0001/a.flac"), Path("/gone/samples/base/a.flac"))
    record(tmp_path, SamplesResult(2, 1, Path("lora_output/samples/epoch-0001"), (song,), None))
    found = read_history(tmp_path).samples[0]
    assert found.folder == tmp_path / "samples/epoch-0001"
    assert found.samples[0].path == tmp_path / "samples/epoch-0001/a.flac"
    assert found.samples[0].base_path == tmp_path / "samples/base/a.flac"


@pytest.mark.parametrize("config", ["a: [", "- 1", "\x00", "[" * 5000])
def test_a_broken_config_is_kept_as_text(tmp_path: Path, config: str) -> None:
    record(tmp_path, step_result(1))
    (tmp_path / "config.yaml").write_text(config)
    history = read_history(tmp_path)
    assert history.config == {}
    assert history.config_text == config


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        read_history(tmp_path / "none")
    with pytest.raises(InputError, match="no run folder"):
        read_history(tmp_path)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="no run folder"):
        read_history(tmp_path)
