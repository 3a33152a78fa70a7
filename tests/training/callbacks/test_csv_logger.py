import csv
from pathlib import Path

from acestep.training.callbacks import CsvCallback
from made_results import RememberingControl, run_info, samples_result, step_result, summary, validation_result


def train(folder: Path, *, start: int, steps: range, path: Path | None = None) -> CsvCallback:
    callback, control = CsvCallback(path), RememberingControl()
    callback.on_start(run_info(folder, step=start), control)
    for step in steps:
        callback.on_step(step_result(step, 1 / step), control)
        if step % 2 == 0:
            callback.on_validation(validation_result(step // 2, [0.25, 0.75], step=step), control)
    assert control.notes == []
    return callback


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_is_a_table_of_steps_validations_and_samples(tmp_path: Path):
    callback = train(tmp_path, start=0, steps=range(1, 3))
    callback.on_samples(samples_result(tmp_path, epoch=2, likeness=0.125), RememberingControl())
    callback.on_end(summary(tmp_path))
    rows = table(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"], row["likeness"]) for row in rows] == [
        ("1", "1.0", ""), ("2", "0.5", ""), ("2", "", ""), ("2", "", "0.125")
    ]  # fmt: skip
    assert len(set(rows[0])) == len(rows[0])


def test_a_resumed_run_leaves_the_table_of_one_that_was_not_interrupted(tmp_path: Path):
    train(tmp_path / "whole", start=0, steps=range(1, 9)).on_end(summary(tmp_path))
    train(tmp_path / "cut", start=0, steps=range(1, 7)).on_failure(KeyboardInterrupt())
    with (tmp_path / "cut" / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("7,3,0.1\0")
    train(tmp_path / "cut", start=4, steps=range(5, 9)).on_end(summary(tmp_path))
    whole, cut = ((tmp_path / name / "metrics.csv").read_text(encoding="utf-8") for name in ("whole", "cut"))
    assert cut == whole


def test_every_row_is_on_disk_at_once(tmp_path: Path):
    callback = train(tmp_path, start=0, steps=range(1, 2))
    assert len(table(tmp_path / "metrics.csv")) == 1
    callback.on_failure(ValueError())


def test_a_new_run_starts_a_new_table_and_a_resumed_one_without_a_table_too(tmp_path: Path):
    train(tmp_path, start=0, steps=range(1, 4)).on_end(summary(tmp_path))
    train(tmp_path, start=0, steps=range(1, 2)).on_end(summary(tmp_path))
    assert len(table(tmp_path / "metrics.csv")) == 1
    elsewhere = tmp_path / "a" / "b" / "Tabelle ü.csv"
    train(tmp_path, start=3, steps=range(4, 6), path=elsewhere).on_end(summary(tmp_path))
    assert [row["step"] for row in table(elsewhere)] == ["4", "4", "5"]
