from __future__ import annotations

import json
from pathlib import Path

from acestep.evaluation.run_report.events import gathered, happenings
from acestep.training.history import read_history
from training.test_history import record, step_result


def write_events(folder: Path, *events: dict[str, object]) -> None:
    record(folder, *[step_result(step) for step in range(1, 31)])
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_events_stand_at_the_step_they_name_or_that_the_clock_gives(tmp_path: Path) -> None:
    at = "2026-05-01T00:{}+00:00".format
    write_events(
        tmp_path,
        {"event": "early", "time": at("00:00")},
        {"event": "resumed", "step": 4, "time": at("10:00")},
        {"event": "something", "time": at("10:07")},  # 7 s of steps of 2 s later
        {"event": "checkpoint", "path": "epoch-0001"},  # steps 1 to 9 are of epoch 1
        {"event": "checkpoint", "path": "epoch-0003-step-000025", "time": at("11:00")},
        {"event": "late", "time": at("59:00")},
        {"event": "finished", "steps": 30},
    )
    assert [one.step for one in happenings(read_history(tmp_path))] == [None, 4, 7, 9, 25, 30, 30]


def test_an_event_is_told_in_words_with_its_advice(tmp_path: Path) -> None:
    write_events(
        tmp_path,
        {"event": "diagnosis", "kind": "overfitting", "step": 3, "message": "It rises.", "advice": "Stop earlier."},
        {"event": "out of memory", "step": 3, "batch": "2 of 8x16", "batch_size": 1, "answer": "Batches of 1."},
        {"event": "failed", "error": "OSError: disk full"},
        {"event": "odd_one", "share": 0.123456, "list": [1, {"a": 2}], "message": None},
    )
    told = happenings(read_history(tmp_path))
    assert (told[0].title, told[0].text, told[0].advice, told[0].tone) == (
        "Overfitting",
        "It rises.",
        "Stop earlier.",
        "bad",
    )
    assert told[1].text == "Batches of 1.; batch: 2 of 8x16; batch size: 1"
    assert (told[2].title, told[2].text) == ("Failed", "OSError: disk full")
    assert told[3].title == "Odd one"
    assert "share: 0.1235" in told[3].text


def test_what_comes_again_and_again_is_told_once(tmp_path: Path) -> None:
    diagnosis = {"event": "diagnosis", "kind": "overfitting", "message": "It rises."}
    write_events(
        tmp_path,
        {"event": "started"},
        {"event": "checkpoint", "path": "epoch-0001-step-000005"},
        *[{**diagnosis, "step": step} for step in (6, 7, 8)],
        {"event": "checkpoint", "path": "epoch-0001-step-000009"},
        {**diagnosis, "step": 10},
        {"event": "resumed", "step": 9},
        {"event": "checkpoint", "path": "epoch-0002-step-000020"},
    )
    told = gathered(happenings(read_history(tmp_path)))
    assert [(one.title, one.count, one.step, one.until) for one in told] == [
        ("Started", 1, None, None),
        ("Checkpoint", 2, 5, 9),
        ("Overfitting", 4, 6, 10),
        ("Resumed", 1, 9, None),
        ("Checkpoint", 1, 20, None),
    ]
