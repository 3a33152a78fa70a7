from __future__ import annotations

from pathlib import Path

import pytest

from acestep.cli import time_limit
from acestep.cli.time_limit import TimeLimitCallback
from acestep.training import RunInfo, StepResult


class Control:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def save_checkpoint(self) -> None:
        raise AssertionError("nobody asked for one")

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)


def step(number: int) -> StepResult:
    return StepResult(number, 10, 1, 1, 1.0, 1e-3, 1.0, 4, 0.1, None)


def test_a_run_is_asked_to_stop_once_its_time_is_up_and_not_after_its_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: now)
    limit, control = TimeLimitCallback(60.0), Control()
    limit.on_start(RunInfo(Path(), 0, 10, 1, 4, 1, 8, ()), control)
    now = 159.0
    limit.on_step(step(1), control)
    assert control.reasons == []
    now = 161.0
    limit.on_step(step(10), control)
    assert control.reasons == []
    limit.on_step(step(2), control)
    assert "60 s" in control.reasons[0]
