import builtins
import logging
from pathlib import Path
from typing import Any

import pytest

from acestep.errors import ConfigError
from acestep.training.callbacks import TensorBoardCallback
from made_results import RememberingControl, run_info, step_result, summary, validation_result


def train(folder: Path, *, start: int, steps: range) -> None:
    callback, control = TensorBoardCallback(), RememberingControl()
    callback.on_start(run_info(folder, step=start), control)
    for step in steps:
        callback.on_step(step_result(step, step + start / 100), control)
    callback.on_validation(validation_result(1, [0.5, 0.7], step=steps[-1]), control)
    callback.on_end(summary(folder))
    assert control.notes == []


def test_what_was_written_is_read_by_tensorboard_and_a_resume_replaces_what_comes_again(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, start=0, steps=range(1, 7))
    train(tmp_path, start=4, steps=range(5, 9))
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    losses = [(event.step, round(event.value, 2)) for event in read.Scalars("train/loss")]
    assert losses == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5.04), (6, 6.04), (7, 7.04), (8, 8.04)]
    assert read.Scalars("val/loss")[-1].step == 8


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"acesteps\[tensorboard\]"):
        TensorBoardCallback()
