from __future__ import annotations

import json
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.evaluation.curves import read_curves


def write(path: Path, *rows: dict[str, float], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + rest, encoding="utf-8")
    return path


def test_both_curves_are_read_from_one_file(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "val_loss": 2.0},
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 3.0},
        {"step": 2, "val_loss": 1.0},
    ]
    curves = read_curves(write(tmp_path / "metrics.jsonl", *rows))
    assert curves.validation == ((0, 2.0), (2, 1.0))
    assert [step for step, _ in curves.training] == [1, 2]
    assert [loss for _, loss in curves.training] == pytest.approx([3.0, 3.0])


def test_smoothing_takes_noise_away_and_keeps_the_level(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1.0 + (-1) ** step} for step in range(200)]
    curves = read_curves(write(tmp_path / "metrics.jsonl", *rows))
    assert curves.training[-1][1] == pytest.approx(1.0, abs=0.1)


def test_a_line_that_a_stop_left_half_written_is_passed_over(tmp_path: Path) -> None:
    curves = read_curves(write(tmp_path / "metrics.jsonl", {"step": 1, "loss": 1.0}, rest='{"step": 2, "lo'))
    assert len(curves.training) == 1


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_curves(tmp_path / "metrics.jsonl")
