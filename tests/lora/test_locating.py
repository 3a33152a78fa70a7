from pathlib import Path

import pytest

from acestep.errors import CheckpointError, MissingWeightsError
from acestep.lora.locating import CONFIG_FILE, WEIGHTS_FILE, locate_adapter


def test_the_official_name_goes_before_peft_s_and_the_config_lies_beside(tmp_path: Path):
    for name in ("adapter_model.safetensors", WEIGHTS_FILE, CONFIG_FILE, "other.safetensors"):
        (tmp_path / name).touch()
    files = locate_adapter(tmp_path)
    assert files.weights.name == WEIGHTS_FILE
    assert files.config == tmp_path / CONFIG_FILE


def test_a_single_file_of_any_name_is_found_and_several_are_not_guessed_between(tmp_path: Path):
    (tmp_path / "a.safetensors").touch()
    assert locate_adapter(tmp_path).weights.name == "a.safetensors"
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"a\.safetensors, b\.safetensors"):
        locate_adapter(tmp_path)


def test_an_empty_folder_says_what_was_expected(tmp_path: Path):
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        locate_adapter(tmp_path)


def test_a_hub_id_is_looked_for_on_the_hub_only_where_no_such_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "someone" / "lora").mkdir(parents=True)
    (tmp_path / "someone" / "lora" / WEIGHTS_FILE).touch()
    asked: list[str] = []

    def download(repository: str, **_: object) -> str:
        asked.append(repository)
        return str(tmp_path / "someone" / "lora")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    locate_adapter("someone/lora")
    assert asked == []
    assert locate_adapter("someone/other").weights.exists()
    assert asked == ["someone/other"]


def test_a_hub_id_that_is_not_cached_offline_says_how_to_get_it():
    with pytest.raises(MissingWeightsError, match="hf download nobody/nothing"):
        locate_adapter("nobody/nothing")


def test_a_relative_path_is_never_taken_for_a_hub_id():
    with pytest.raises(MissingWeightsError, match="no adapter at"):
        locate_adapter("./my_lora")
