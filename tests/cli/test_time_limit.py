from __future__ import annotations

from pathlib import Path

import pytest

from acestep.cli import time_limit
from acestep.cli.time_limit import TimeLimitCallback
from made_results import RememberingControl, run_info, step_result


def test_a_run_is_asked_to_stop_once_its_time_is_up_and_not_after_its_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: now)
    limit, control = TimeLimitCallback(60.0), RememberingControl()
    limit.on_start(run_info(Path(), total_steps=10), control)
    now = 159.0
    limit.on_step(step_result(1, total_steps=10), control)
    assert control.stopped == []
    now = 161.0
    limit.on_step(step_result(10, total_steps=10), control)
    assert control.stopped == []
    limit.on_step(step_result(2, total_steps=10), control)
    assert "60 s" in control.stopped[0]
