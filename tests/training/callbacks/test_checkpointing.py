import math
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.training.callbacks import SaveCheckpointCallback, checkpointing
from made_results import RememberingControl, epoch_result, run_info, step_result


def test_checkpoints_are_asked_for_every_so_many_epochs_and_not_at_the_end_where_the_run_keeps_one_itself():
    control = RememberingControl()
    callback = SaveCheckpointCallback(every=2)
    for epoch in range(1, 7):
        callback.on_epoch(epoch_result(epoch, epochs=6), control)
    assert control.saved == 2


def test_minutes_count_from_the_last_checkpoint_whoever_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = 1000.0
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now)
    control, callback = RememberingControl(), SaveCheckpointCallback(every=100, minutes=10)
    now = 5000.0
    callback.on_start(run_info(tmp_path), control)
    asked = []
    for minute in range(1, 36):
        now = 5000.0 + 60 * minute
        before = control.saved
        callback.on_step(step_result(minute), control)
        if control.saved > before or minute == 15:
            asked.append(minute)
            callback.on_checkpoint(tmp_path)
    assert asked == [10, 15, 25, 35]


def test_without_minutes_time_alone_asks_for_nothing(monkeypatch: pytest.MonkeyPatch):
    control, callback = RememberingControl(), SaveCheckpointCallback(minutes=None)
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: math.inf)
    callback.on_step(step_result(1), control)
    assert control.saved == 0


@pytest.mark.parametrize("wrong", [{"every": 0}, {"minutes": 0.0}, {"minutes": math.nan}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]):
    with pytest.raises(InputError):
        SaveCheckpointCallback(**wrong)  # type: ignore[arg-type]
