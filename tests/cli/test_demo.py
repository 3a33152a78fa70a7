from __future__ import annotations

import json
from pathlib import Path

import pytest

from acestep.cli import demo as demo_command
from acestep.cli.demo import claim_folder
from acestep.errors import InputError
from acestep.training import TrainingConfig
from cli.command import acestep
from small_family import write_tone


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for index in range(4):
        write_tone(tmp_path / "my tones" / f"{index}.wav", 6, frequency=110 * (index + 1))
    return tmp_path / "my tones"


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One song of five seconds, and a training of one step."""

    def one_step(model: str, out: Path) -> TrainingConfig:
        config = full_config(model, out).model_dump()
        config["training"] |= {"epochs": 1, "max_steps": 1, "warmup_steps": 0}
        return TrainingConfig.model_validate(config)

    full_config = demo_command.training_config
    for name, value in {"training_config": one_step, "PROMPTS": 1, "SEEDS": (1,), "SONG_S": 5.0}.items():
        monkeypatch.setattr(demo_command, name, value)


@pytest.mark.usefixtures("_short")
def test_a_folder_of_recordings_becomes_a_lora_a_page_and_figures(
    model: Path, recordings: Path, tmp_path: Path
) -> None:
    outcome = acestep("demo", "--audio", recordings, "--model", model, "--out", "demo", "--json")
    assert outcome.status == 0, outcome.stderr
    told = outcome.json
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert made == {"dataset", "training", "songs", "report.html", "evaluation.json", "demo.json"}
    assert (Path(told["training"]["adapter"]) / "pytorch_lora_weights.safetensors").is_file()
    keys = [figure["key"] for figure in told["evaluation"]["figures"]]
    assert keys[:2] == ["held_out_loss", "distance_to_style"]
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "my tones" in page
    assert "polyline" in page
    assert "my tones" in outcome.stderr
    again = acestep("demo", "--audio", recordings, "--model", model, "--out", "demo")
    assert again.status == 1
    assert "--force" in again.stderr
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_of_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "report.html").write_text("mine")
    for arguments in ([], ["--force"]):
        outcome = acestep("demo", "--out", "demo", *arguments)
        assert outcome.status == 1
        assert "no demo made" in outcome.stderr
    assert (tmp_path / "demo" / "report.html").read_text() == "mine"


def test_an_interrupted_demo_is_made_anew_and_keeps_what_others_put_there(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    claim_folder(out, force=False)
    (out / "dataset").mkdir()
    (out / "dataset" / "half.flac").touch()
    (out / "notes.txt").write_text("mine")
    claim_folder(out, force=False)
    assert {path.name for path in out.iterdir()} == {"notes.txt", "demo.json"}


def test_a_finished_demo_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    claim_folder(out, force=False)
    (out / "demo.json").write_text(json.dumps({"finished": True}))
    with pytest.raises(InputError, match="--force"):
        claim_folder(out, force=False)
    claim_folder(out, force=True)


def test_a_link_is_taken_away_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "song.flac").write_text("precious")
    out = tmp_path / "demo"
    claim_folder(out, force=False)
    (out / "songs").symlink_to(tmp_path / "archive")
    claim_folder(out, force=False)
    assert not (out / "songs").exists()
    assert (tmp_path / "archive" / "song.flac").exists()


@pytest.mark.parametrize(("audio", "out"), [("music", "music"), ("music", "music/demo"), ("demo/dataset", "demo")])
def test_recordings_in_the_demos_own_folder_are_safe(audio: str, out: str, tmp_path: Path) -> None:
    write_tone(tmp_path / audio / "mine.wav", 6)
    outcome = acestep("demo", "--audio", audio, "--out", out, "--force")
    assert outcome.status == 1
    assert "lie in each other" in outcome.stderr
    assert (tmp_path / audio / "mine.wav").is_file()


@pytest.mark.parametrize("audio", ["none", "empty"])
def test_a_folder_without_recordings_is_named(audio: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    outcome = acestep("demo", "--audio", audio, "--out", "demo")
    assert outcome.status == 1
    assert audio in outcome.stderr


def test_the_demos_own_config_is_a_valid_one() -> None:
    config = demo_command.training_config("nano", Path("demo"))
    assert config.base_model == "nano"
    assert config.data.validation_split == demo_command.HELD_OUT
