import json
from pathlib import Path

import pytest

from acestep.training.callbacks import DiagnosisCallback, diagnosing
from acestep.training.diagnosis import Finding
from acestep.training.history import RunHistory
from acestep.training.results import EpochResult
from made_results import RememberingControl, epoch_result, run_info, validation_result


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Finding]:
    found: list[Finding] = []

    def diagnose(history: RunHistory) -> tuple[Finding, ...]:
        assert history.folder == tmp_path
        return tuple(found)

    monkeypatch.setattr(diagnosing, "diagnose", diagnose)
    monkeypatch.setattr(diagnosing, "_SHARE", 0)
    (tmp_path / "metrics.jsonl").write_text("")
    return found


def finding(*subjects: str) -> Finding:
    return Finding("data", subjects, f"Tracks stand out: {subjects}.", "Mend them.", {"harder": {"a.wav": 3.0}})


def look(callback: DiagnosisCallback, control: RememberingControl, epochs: range) -> None:
    for epoch in epochs:
        callback.on_epoch(EpochResult(epoch, 9, epoch, 0.5, validation_result(epoch, [0.4])), control)


def test_a_finding_is_told_once_and_again_where_it_is_about_something_else(findings: list[Finding], tmp_path: Path):
    callback, control = DiagnosisCallback(), RememberingControl()
    callback.on_start(run_info(tmp_path), control)
    look(callback, control, range(1, 3))
    findings.append(finding("a.wav"))
    look(callback, control, range(3, 6))
    findings[0] = finding("a.wav", "b.wav")
    look(callback, control, range(6, 8))
    findings[0] = finding("b.wav")
    look(callback, control, range(8, 9))
    assert [(event, told["epoch"]) for event, told in control.notes] == [("diagnosis", 3), ("diagnosis", 6)]
    assert control.notes[0][1]["message"] == "Tracks stand out: ('a.wav',). Mend them."
    assert json.loads(json.dumps(control.notes[0][1]))["evidence"] == {"harder": {"a.wav": 3.0}}


def test_a_resumed_run_does_not_repeat_it(findings: list[Finding], tmp_path: Path):
    first, control = DiagnosisCallback(), RememberingControl()
    first.on_start(run_info(tmp_path), control)
    findings.append(Finding("collapse", (), "Alike.", "Listen."))
    look(first, control, range(1, 2))
    resumed, later = DiagnosisCallback(), RememberingControl()
    resumed.load_state(json.loads(json.dumps(first.state())))
    resumed.on_start(run_info(tmp_path, step=3), later)
    look(resumed, later, range(2, 4))
    assert (len(control.notes), later.notes) == (1, [])
    resumed.load_state({})


def test_epochs_without_a_validation_are_looked_at_only_where_nothing_is_held_out(
    findings: list[Finding], tmp_path: Path
):
    findings.append(finding("a.wav"))
    for held_out, told in ((1, 0), (0, 1)):
        callback, control = DiagnosisCallback(), RememberingControl()
        callback.on_start(run_info(tmp_path, held_out_tracks=held_out), control)
        callback.on_epoch(epoch_result(1), control)
        assert len(control.notes) == told


def test_a_record_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path):
    callback, control = DiagnosisCallback(), RememberingControl()
    callback.on_start(run_info(tmp_path / "gone"), control)
    look(callback, control, range(1, 3))
    assert control.notes == []
