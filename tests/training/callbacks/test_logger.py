from pathlib import Path

import pytest

from acestep.training.callbacks.figures import Figures, step_figures, validation_figures
from acestep.training.callbacks.logger import LoggerCallback
from acestep.training.results import RunInfo
from made_results import RememberingControl, run_info, samples_result, step_result, summary, validation_result


class Fragile(LoggerCallback):
    """Fails at the named call."""

    name = "fragile"

    def __init__(self, fails_at: str) -> None:
        super().__init__()
        self.fails_at = fails_at
        self.calls: list[str] = []

    def called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise OSError(28, "No space left on device")

    def open(self, run: RunInfo) -> None:
        self.called("open")

    def write(self, step: int, figures: Figures) -> None:
        self.called("write")

    def close(self, *, succeeded: bool) -> None:
        self.called("close")


@pytest.mark.parametrize(
    ("fails_at", "calls"), [("open", 1), ("write", 2), ("close", 5), ("nothing", 5)], ids=lambda value: str(value)
)
def test_a_logger_that_fails_is_told_once_and_left_out(tmp_path: Path, fails_at: str, calls: int):
    callback, control = Fragile(fails_at), RememberingControl()
    callback.on_start(run_info(tmp_path), control)
    callback.on_step(step_result(1), control)
    callback.on_validation(validation_result(1, [0.5]), control)
    callback.on_samples(samples_result(tmp_path, likeness=0.3), control)
    callback.on_end(summary(tmp_path))
    assert len(callback.calls) == calls
    assert [event for event, _ in control.notes] == ([] if fails_at == "nothing" else ["logger_failed"])
    if control.notes:
        assert "fragile" in control.notes[0][1]["message"]
        assert "No space left" in control.notes[0][1]["message"]


def test_ctrl_c_in_a_logger_is_no_failure_of_it(tmp_path: Path):
    class Interrupted(Fragile):
        def write(self, step: int, figures: Figures) -> None:
            raise KeyboardInterrupt

    callback, control = Interrupted(""), RememberingControl()
    callback.on_start(run_info(tmp_path), control)
    with pytest.raises(KeyboardInterrupt):
        callback.on_step(step_result(1), control)


def test_a_run_that_never_started_closes_nothing():
    callback = Fragile("close")
    callback.on_failure(ValueError())
    assert callback.calls == []


def test_the_names_of_steps_and_validations_never_meet():
    step, validation = step_figures(step_result(1)), validation_figures(validation_result(1, [0.4, 0.6]))
    assert not step.keys() & validation.keys()
    assert step["speed/music_s_per_s"] == 20
    assert validation["val/loss"] == 0.5
    assert validation["val/loss_at_sigma_0.90"] == 0.75
    assert step_figures(step_result(1, seconds=0.0))["speed/waiting_share"] == 0
