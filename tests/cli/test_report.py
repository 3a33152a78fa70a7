from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cli.command import acestep
from training.test_history import record, step_result, validation_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    steps = [step_result(step) for step in range(1, 4)]
    return record(tmp_path / "run", validation_result(0, 0, 2.0), *steps, validation_result(3, 1, 1.5)).path


def test_a_run_becomes_a_page_beside_its_record(run: Path) -> None:
    outcome = acestep("report", run)
    assert outcome.status == 0, outcome.stderr
    assert "25.0 % below the base's" in " ".join(outcome.stdout.split())
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_programs_get_one_object_with_the_figures(run: Path, tmp_path: Path) -> None:
    outcome = acestep("report", run, "--out", "elsewhere/page.html", "--json")
    assert outcome.status == 0, outcome.stderr
    told = outcome.json
    assert told["report"] == "elsewhere/page.html"
    assert (tmp_path / "elsewhere" / "page.html").is_file()
    assert not (run / "report.html").exists()
    assert told["steps"] == 3
    assert told["held_out"]["best"]["change_share"]["value"] == pytest.approx(-0.25)


def test_watching_ends_with_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def finish(seconds: float) -> None:
        waited.append(seconds)
        assert 'data-refresh-s="5"' in (run / "report.html").read_text(encoding="utf-8")
        ended = {"event": "finished", "time": "2026-05-01T00:00:00+00:00", "reason": "all steps are done"}
        (run / "events.jsonl").write_text(json.dumps(ended) + "\n")

    monkeypatch.setattr(time, "sleep", finish)
    outcome = acestep("report", run, "--watch", 5)
    assert outcome.status == 0, outcome.stderr
    assert waited == [5]
    assert "data-refresh-s" not in (run / "report.html").read_text(encoding="utf-8")


def test_bad_input_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").touch()
    for arguments, said in (
        (["none"], "there is no folder none"),
        (["empty"], "is no run folder"),
        (["new"], "no metrics yet"),
        ([run, "--out", "empty"], "empty is a folder"),
        ([run, "--out", "new/metrics.jsonl/page.html"], "--out FILE"),
    ):
        outcome = acestep("report", *arguments)
        assert outcome.status == 1, outcome.stderr
        assert said in outcome.stderr
    assert acestep("report", run, "--watch", 5, "--json").status == 2
    assert acestep("report", run, "--watch", 0).status == 2


def test_a_folder_that_cannot_be_written_is_named_and_left_clean(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "replace", full)
    outcome = acestep("report", run, "--json")
    assert outcome.status == 1
    assert "No space left on device" in outcome.json["error"]["message"]
    assert "--out FILE" in outcome.json["error"]["message"]
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]
