from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from acestep.evaluation.report_card import read_card
from acestep.training import StepResult
from acestep.training.callbacks import ProgressCallback
from cli.command import acestep
from small_family import write_dataset


def write_config(tmp_path: Path, model: Path, **training: object) -> Path:
    path = tmp_path / "train.yaml"
    config = {
        "base_model": str(model),
        "output_dir": str(tmp_path / "run"),
        "lora": {"rank": 2, "alpha": 2},
        "training": {"epochs": 2, "gradient_accumulation": 2, "warmup_steps": 1, **training},
        "data": {"train_dir": str(tmp_path / "data"), "validation_split": 0.3, "max_duration": 2},
        "samples": {"every_epochs": None},
        "precision": "fp32",
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_config_and_a_folder_become_a_lora_and_a_stopped_run_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", tracks=4)
    config = write_config(tmp_path, model)

    def interrupt(self: ProgressCallback, result: StepResult, control: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProgressCallback, "on_step", interrupt)
        stopped = acestep("train", config)
    assert stopped.status == 130
    assert "--resume" in stopped.stderr
    again = acestep("train", config)
    assert again.status == 1
    assert "--resume" in again.stderr
    finished = acestep("train", config, "--resume", "--json")
    assert finished.status == 0, finished.stderr
    told = finished.json
    assert told["outcome"] == "finished"
    assert told["held_out_loss"].keys() == {"first", "last"}
    assert (Path(told["adapter"]) / "pytorch_lora_weights.safetensors").is_file()
    assert Path(told["evaluation"]) == tmp_path / "run" / "evaluation" / "report.html"
    assert read_card(Path(told["adapter"])) == read_card(tmp_path / "run" / "evaluation")
    assert {finding.key for finding in read_card(Path(told["adapter"])).findings} == {"effect", "memorisation"}
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_all_problems_of_a_config_are_told_at_once(tmp_path: Path, model: Path) -> None:
    config = write_config(tmp_path, model, learning_rate="fast", epoch=3)
    outcome = acestep("train", config, "--json")
    assert outcome.status == 1
    message = outcome.json["error"]["message"]
    assert "learning_rate" in message
    assert "epoch" in message


def test_a_folder_without_annotations_is_named_and_the_rest_goes_on_only_if_asked_to(
    tmp_path: Path, model: Path
) -> None:
    write_dataset(tmp_path / "data", tracks=3)
    (tmp_path / "data" / "audio" / "empty.wav").touch()
    outcome = acestep("train", write_config(tmp_path, model))
    assert outcome.status == 1
    assert "empty.wav" in outcome.stderr
    assert "--skip-bad" in outcome.stderr
    assert (
        acestep("train", write_config(tmp_path, model, epochs=1, max_steps=1), "--skip-bad", "--no-evaluate").status
        == 0
    )


def test_a_config_that_is_not_there_is_named() -> None:
    outcome = acestep("train", "none.yaml")
    assert outcome.status == 1
    assert "none.yaml" in outcome.stderr


def test_a_dry_run_says_what_the_run_needs_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", tracks=4)
    config = write_config(tmp_path, model)
    told = acestep("train", config, "--dry-run", "--json")
    assert told.status == 0, told.stderr
    assert told.json["fits"] is True
    assert told.json["steps"] == 4
    assert told.json["total_s"] > 0
    assert not (tmp_path / "run").exists()
    people = acestep("train", config, "--dry-run")
    assert "memory" in people.stdout
    assert "a step" in people.stdout


def test_a_run_that_does_not_fit_is_refused_with_what_would_help_unless_asked_not_to_look(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", tracks=4)
    config = write_config(tmp_path, model, max_steps=1)
    monkeypatch.setattr("acestep.training.planning.planner.free_bytes", lambda folder: 10)
    refused = acestep("train", config)
    assert refused.status == 1
    assert "--no-check" in refused.stderr
    assert not (tmp_path / "run").exists()
    assert acestep("train", config, "--no-check").status == 0
