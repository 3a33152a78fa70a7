import json
import logging
from pathlib import Path

import pytest

from acestep.errors import TrainingError
from acestep.training.run_folder import RunFolder


def test_a_folder_with_a_run_in_it_is_not_started_over(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.start("a: 1", resume=False)
    folder.add_metrics(step=1, loss=0.5)
    with pytest.raises(TrainingError, match="holds a run already"):
        folder.start("a: 1", resume=False)
    folder.start("a: 1", resume=True)


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").start("", resume=False)


def test_metrics_of_steps_to_be_repeated_are_dropped_with_half_written_lines(tmp_path: Path):
    folder = RunFolder(tmp_path)
    for step in range(1, 6):
        folder.add_metrics(step=step, loss=0.1 * step)
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    folder.forget_after(3)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]


def test_half_written_checkpoints_are_not_listed(tmp_path: Path):
    folder = RunFolder(tmp_path)
    whole = folder.checkpoint(epoch=2, step=9, whole_epoch=True)
    inside = folder.checkpoint(epoch=3, step=11, whole_epoch=False)
    assert (whole.name, inside.name) == ("epoch-0002", "epoch-0003-step-000011")
    for path in (whole, inside, whole.with_name("epoch-0004.abc.partial")):
        path.mkdir(parents=True)
    assert folder.checkpoints() == [whole, inside]


def test_what_modules_log_reaches_the_file_and_only_during_the_block(tmp_path: Path):
    folder = RunFolder(tmp_path)
    logger = logging.getLogger("acestep.somewhere")
    with folder.logging_to_file():
        logger.info("inside")
    logger.warning("outside")
    text = (tmp_path / "log.txt").read_text()
    assert "inside" in text
    assert "outside" not in text
