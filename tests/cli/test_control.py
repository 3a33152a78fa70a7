from pathlib import Path

import pytest

from acestep.training.folder_lock import folder_lock
from cli.command import acestep


@pytest.mark.parametrize("command", ["pause", "run", "cancel"])
def test_a_command_is_left_where_the_run_looks(tmp_path: Path, command: str) -> None:
    (tmp_path / "config.yaml").write_text("")
    with folder_lock(tmp_path / ".lock"):
        outcome = acestep("control", tmp_path, command, "--json")
    assert outcome.status == 0, outcome.stderr
    assert outcome.json == {"folder": str(tmp_path), "command": command}
    assert (tmp_path / "control").read_text().strip() == command


def test_a_folder_without_a_run_and_an_unknown_command_are_refused(tmp_path: Path) -> None:
    none = acestep("control", tmp_path, "pause")
    assert none.status == 1
    assert "holds no run" in none.stderr
    assert acestep("control", tmp_path, "stop").status == 2


def test_a_run_that_is_over_is_not_said_to_pause(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    outcome = acestep("control", tmp_path, "pause")
    assert outcome.status == 1
    assert "no run goes on" in outcome.stderr
