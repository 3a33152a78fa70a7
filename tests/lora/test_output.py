from __future__ import annotations

import errno
from pathlib import Path

import pytest

from acestep.errors import CheckpointError, InputError, MissingWeightsError
from acestep.lora.locating import PEFT_WEIGHTS_FILE, WEIGHTS_FILE, locate_adapter
from acestep.lora.output import check_output, is_adapter_folder, told_in_words


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/below"])
def test_what_can_be_no_folder_s_name_is_said(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="give another name"):
        check_output(tmp_path / name, overwrite=True)


def test_a_link_that_leads_nowhere_is_no_place_to_write(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        check_output(tmp_path / "link", overwrite=True)


def test_an_empty_folder_is_free_and_a_full_one_only_when_told(tmp_path: Path):
    check_output(tmp_path, overwrite=False)
    (tmp_path / "song.wav").touch()
    with pytest.raises(InputError, match="is there already"):
        check_output(tmp_path, overwrite=False)
    check_output(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, PEFT_WEIGHTS_FILE, "mine.safetensors"])
def test_what_we_write_as_an_adapter_may_be_replaced_and_a_collection_may_not(tmp_path: Path, name: str):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert is_adapter_folder(folder)
    (folder / "other.safetensors").touch()
    assert not is_adapter_folder(folder)
    (folder / name).touch()
    assert is_adapter_folder(folder)


@pytest.mark.parametrize(("number", "asks"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_room_is_asked_for_only_where_the_disk_is_full(tmp_path: Path, number: int, asks: bool):
    with pytest.raises(CheckpointError, match="could not be written") as told, told_in_words(tmp_path):
        raise OSError(number, "no")
    assert ("room on the disk" in str(told.value)) is asks


def test_a_path_longer_than_a_disk_takes_is_no_adapter():
    with pytest.raises(MissingWeightsError, match="no adapter at"):
        locate_adapter("x" * 5000)
