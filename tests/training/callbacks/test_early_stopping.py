import json
import math
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.training.callbacks import EarlyStoppingCallback
from made_results import RememberingControl, epoch_result, run_info, validation_result


def look(callback: EarlyStoppingCallback, control: RememberingControl, losses: list[float], *, first: int = 1) -> None:
    for epoch, loss in enumerate(losses, start=first):
        callback.on_validation(validation_result(epoch, [loss]), control)


def test_each_new_best_is_kept_and_patience_ends_the_run_with_its_reason():
    callback, control = EarlyStoppingCallback(patience=3), RememberingControl()
    look(callback, control, [0.9, 0.7, 0.8, 0.6, 0.61, 0.62])
    assert (control.kept, control.stopped) == (3, [])
    look(callback, control, [0.63], first=7)
    assert control.stopped == ["val_loss has not fallen below 0.6000, its best (epoch 4), for 3 validations"]
    assert (callback.best, callback.best_epoch) == (0.6, 4)


def test_the_base_itself_is_no_candidate():
    callback, control = EarlyStoppingCallback(patience=2), RememberingControl()
    look(callback, control, [0.1, 0.9, 0.8], first=0)
    assert control.kept == 2
    assert control.stopped == []


def test_a_gain_within_min_delta_is_none():
    callback, control = EarlyStoppingCallback(patience=2, min_delta=0.05), RememberingControl()
    look(callback, control, [0.5, 0.48, 0.46])
    assert control.kept == 1
    assert len(control.stopped) == 1
    look(callback, control, [0.44], first=4)
    assert control.kept == 2


def test_a_loss_that_is_no_number_is_no_best():
    callback, control = EarlyStoppingCallback(patience=2), RememberingControl()
    look(callback, control, [math.nan, math.nan])
    assert control.kept == 0
    assert "no number" in control.stopped[0]


def test_patience_goes_on_over_a_resume():
    first, control = EarlyStoppingCallback(patience=4), RememberingControl()
    look(first, control, [0.5, 0.6, 0.6])
    resumed = EarlyStoppingCallback(patience=4)
    resumed.load_state(json.loads(json.dumps(first.state())))
    look(resumed, control, [0.6], first=4)
    assert (control.kept, control.stopped) == (1, [])
    look(resumed, control, [0.6], first=5)
    assert len(control.stopped) == 1


def test_what_was_seen_of_another_metric_or_nothing_at_all_is_not_taken_up():
    other = EarlyStoppingCallback(metric="loss")
    other.on_epoch(epoch_result(1, 0.1), RememberingControl())
    callback = EarlyStoppingCallback()
    callback.load_state(other.state())
    callback.load_state({})
    assert callback.best is None


def test_the_training_loss_is_watched_by_epochs_and_needs_no_held_out_tracks(tmp_path: Path):
    callback, control = EarlyStoppingCallback(patience=1, metric="loss"), RememberingControl()
    callback.on_start(run_info(tmp_path, held_out_tracks=0), control)
    look(callback, control, [0.1, 0.2, 0.3])
    assert (control.kept, control.stopped, control.notes) == (0, [], [])
    callback.on_epoch(epoch_result(1, 0.5), control)
    callback.on_epoch(epoch_result(2, 0.6), control)
    assert control.kept == 1
    assert control.stopped == ["loss has not fallen below 0.5000, its best (epoch 1), for 1 epochs"]


def test_without_held_out_tracks_it_says_once_that_it_cannot_act(tmp_path: Path):
    callback, control = EarlyStoppingCallback(), RememberingControl()
    callback.on_start(run_info(tmp_path, held_out_tracks=0), control)
    assert [event for event, _ in control.notes] == ["warning"]
    assert "validation_split" in control.notes[0][1]["message"]
    quiet = RememberingControl()
    callback.on_start(run_info(tmp_path, held_out_tracks=2), quiet)
    assert quiet.notes == []


@pytest.mark.parametrize(
    "wrong", [{"patience": 0}, {"metric": "accuracy"}, {"min_delta": -1.0}, {"min_delta": math.nan}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises(InputError):
        EarlyStoppingCallback(**wrong)  # type: ignore[arg-type]
