from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from acestep.cli.doctor import doctor
from acestep.training.planning import machine

app = typer.Typer()
app.command()(doctor)


def test_this_machine_can_train_nano_and_says_so(tmp_path: Path):
    result = CliRunner().invoke(app, ["--output", str(tmp_path)])
    assert result.exit_code == 0
    assert "nano can be trained" in result.stdout


def test_json_is_one_object_with_facts_and_verdicts(tmp_path: Path):
    result = CliRunner().invoke(app, ["--json", "--output", str(tmp_path / "ünïcode")])
    told = json.loads(result.stdout)
    assert "nano" in told["can_train"]
    assert told["machine"]["memory_bytes"] > 0
    assert {verdict["base"] for verdict in told["verdicts"]} == {"nano", "ACE-Step/ACE-Step-v1-3.5B"}


def test_a_machine_that_can_train_nothing_ends_with_1(monkeypatch: pytest.MonkeyPatch):
    look = machine.look_at_machine
    monkeypatch.setattr(machine, "look_at_machine", lambda **options: replace(look(**options), memory_bytes=10))
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["can_train"] == []
