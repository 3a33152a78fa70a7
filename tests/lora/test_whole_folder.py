from pathlib import Path

import pytest

from acestep.lora.whole_folder import written_whole


def write_half(target: Path) -> None:
    with written_whole(target) as folder:
        (folder / "weights").write_text("new")
        raise KeyboardInterrupt


def test_a_folder_that_fails_in_the_middle_leaves_what_was_there(tmp_path: Path):
    target = tmp_path / "adapter"
    with written_whole(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(target)
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_second_write_replaces_the_whole_folder(tmp_path: Path):
    target = tmp_path / "deep" / "adapter"
    for name in ("first", "second"):
        with written_whole(target) as folder:
            (folder / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["adapter"]
