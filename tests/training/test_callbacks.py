import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from acestep.errors import InputError
from acestep.training.callbacks import ProgressCallback, RecordingCallback, SaveCheckpointCallback
from acestep.training.callbacks.progress import format_duration
from acestep.training.results import EpochResult, RunInfo, StepResult, ValidationResult
from acestep.training.run_folder import RunFolder


class Control:
    saved = 0

    def save_checkpoint(self) -> None:
        self.saved += 1

    def stop(self, reason: str) -> None:
        raise AssertionError(reason)


def run_info(folder: Path) -> RunInfo:
    return RunInfo(folder, 0, 20, 10, 4, 1, 1000, ("tracks are few",))


def step_result(step: int, loss: float) -> StepResult:
    return StepResult(step, 20, 1, 10, loss, 1e-4, 0.3, 8, 0.5, 200.0)


def test_checkpoints_are_asked_for_every_so_many_epochs_and_not_at_the_end_where_the_run_keeps_one_itself():
    control = Control()
    callback = SaveCheckpointCallback(every=2)
    for epoch in range(1, 7):
        callback.on_epoch(EpochResult(epoch, 6, epoch, 0.1, None), control)
    assert control.saved == 2
    with pytest.raises(InputError):
        SaveCheckpointCallback(every=0)


def test_the_record_is_lines_of_json_in_the_order_of_what_happened(tmp_path: Path):
    folder = RunFolder(tmp_path)
    callback = RecordingCallback(folder)
    callback.on_start(run_info(tmp_path), Control())
    callback.on_validation(ValidationResult(0, 0, 0.9, None, {"a.wav": 0.9}), Control())
    callback.on_step(step_result(1, 0.8), Control())
    callback.on_failure(KeyboardInterrupt())
    metrics = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    events = [json.loads(line) for line in folder.events.read_text().splitlines()]
    assert [(row["step"], row.get("val_loss"), row.get("loss")) for row in metrics] == [(0, 0.9, None), (1, None, 0.8)]
    assert [row["event"] for row in events] == ["started", "interrupted"]
    assert events[0]["warnings"] == ["tracks are few"]


def test_progress_shows_notes_loss_and_the_time_that_is_left(tmp_path: Path):
    text = io.StringIO()
    callback = ProgressCallback(Console(file=text, force_terminal=True, width=120))
    callback.on_start(run_info(tmp_path), Control())
    callback.on_validation(ValidationResult(0, 0, 0.9, None, {}), Control())
    callback.on_step(step_result(7, 0.5), Control())
    callback.on_failure(ValueError())
    shown = text.getvalue()
    for part in ("tracks are few", "7/20", "loss 0.5000", "held-out 0.9000", "3 min 20 s left"):
        assert part in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str):
    assert format_duration(seconds) == text
