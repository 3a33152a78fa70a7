import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from acestep.training.callbacks import ProgressCallback
from acestep.training.callbacks.progress import fitting, format_left, format_loss
from acestep.training.loss_trend import Trend
from made_results import RememberingControl, run_info, samples_result, step_result, summary, validation_result

CONTROL = RememberingControl()


def watch(tmp_path: Path, *, terminal: bool, width: int = 140) -> tuple[ProgressCallback, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None)
    callback = ProgressCallback(console)
    callback.on_start(run_info(tmp_path, warnings=("track [b]x[/b] is short",)), CONTROL)
    return callback, text


def plain(text: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())


def test_the_bar_shows_loss_held_out_change_time_left_speed_and_memory(tmp_path: Path):
    callback, text = watch(tmp_path, terminal=True)
    callback.on_validation(validation_result(0, [0.9, 0.8]), CONTROL)
    callback.on_validation(validation_result(1, [0.88, 0.78]), CONTROL)
    callback.on_step(step_result(7), CONTROL)
    callback.on_failure(ValueError())
    shown = plain(text)
    for part in (
        "track [b]x[/b] is short",
        "7/20",
        "epoch 1/10",
        "loss 0.5000",
        "held-out 0.8300 (-0.0200 ± 0.0000)",
        "3 min to 4 min left",
        "3.2 GB",
        "20x real time",
    ):
        assert part in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_the_loss_goes_last(tmp_path: Path, width: int):
    callback, text = watch(tmp_path, terminal=True, width=width)
    callback.on_validation(validation_result(0, [0.9, 0.8]), CONTROL)
    callback.on_step(step_result(7), CONTROL)
    callback.on_end(summary(tmp_path))
    bars = [line for line in re.split(r"[\r\n]+", plain(text)) if "7/20" in line]
    assert bars
    assert all(len(line.rstrip()) <= width for line in bars)
    assert ("loss 0.5000" in bars[-1]) == (width >= 40)
    assert ("GB" in bars[-1]) == (width >= 120)


def test_events_appear_above_the_bar_in_words(tmp_path: Path):
    callback, text = watch(tmp_path, terminal=True)
    callback.on_event("diagnosis", {"kind": "overfitting", "message": "it learns [the tracks] by heart"})
    callback.on_event("out_of_memory", {"batch_size": 2, "memory": {"base": 13_179_628}})
    callback.on_samples(samples_result(tmp_path), CONTROL)
    callback.on_end(summary(tmp_path))
    shown = plain(text)
    assert "diagnosis: it learns [the tracks] by heart" in shown
    assert "out of memory: batch_size 2" in shown
    assert "13179628" not in shown
    assert "1 song of epoch 10" in shown


def test_without_a_terminal_it_says_a_line_now_and_then(tmp_path: Path):
    text, now = io.StringIO(), 0.0
    callback = ProgressCallback(Console(file=text, width=30), clock=lambda: now)
    callback.on_start(run_info(tmp_path, warnings=()), CONTROL)
    for step in range(1, 21):
        now += 7
        callback.on_step(step_result(step, loss=1 / step), CONTROL)
    callback.on_end(summary(tmp_path))
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/20", "step 10/20", "step 19/20", "step 20/20"]
    assert "\x1b" not in text.getvalue()


def test_the_first_held_out_loss_is_remembered_over_a_resume(tmp_path: Path):
    first = ProgressCallback(Console(file=io.StringIO()))
    assert first.state() == {}
    first.on_validation(validation_result(0, [0.9, 0.8]), CONTROL)
    resumed, text = watch(tmp_path, terminal=False)
    resumed.load_state(json.loads(json.dumps(first.state())))
    resumed.on_validation(validation_result(5, [0.7, 0.6]), CONTROL)
    assert "(-0.2000 ± 0.0000)" in text.getvalue()
    resumed.load_state({})


def test_a_run_that_fails_before_it_starts_closes_quietly():
    text = io.StringIO()
    ProgressCallback(Console(file=text)).on_failure(ValueError())
    assert text.getvalue() == ""


@pytest.mark.parametrize(
    ("trend", "text"),
    [
        (Trend(0.5), "loss 0.5000"),
        (Trend(0.5, -0.021, 0.005), "loss 0.5000 ↓2.1%"),
        (Trend(0.5, 0.3, 0.1), "loss 0.5000 ↑30.0%"),
        (Trend(0.5, -0.021, 0.02), "loss 0.5000 →"),
    ],
)
def test_the_arrow_turns_only_beyond_chance(trend: Trend, text: str):
    assert format_loss(trend) == text


def test_a_range_whose_ends_read_alike_is_one_time_and_an_unknown_one_nothing():
    assert format_left(200, (190, 205)) == "3 min left"
    assert format_left(200, None) == "3 min left"
    assert format_left(200, (100, 400)) == "2 min to 7 min left"
    assert format_left(None, None) == ""


def test_parts_fit_by_importance_and_stand_in_the_order_of_reading():
    parts = [(1, "bbb"), (0, "aaa"), (2, "ccc")]
    assert fitting(parts, 13) == "bbb  aaa  ccc"
    assert fitting(parts, 12) == "bbb  aaa"
    assert fitting(parts, 3) == "aaa"
    assert fitting(parts, 2) == ""
