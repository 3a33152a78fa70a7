from __future__ import annotations

from pathlib import Path

import pytest
import typer

from acestep.cli.options import existing_text, parse_seeds, usable_device


def test_seeds_are_whole_numbers_with_commas() -> None:
    assert parse_seeds("1, 2,30") == (1, 2, 30)


@pytest.mark.parametrize("text", ["", "1,,2", "a", "1.5", "-1", "1,1"])
def test_anything_else_is_no_seed(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_seeds(text)


def test_a_text_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe\xff")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "words.txt"):
        with pytest.raises(typer.BadParameter, match=str(path)):
            existing_text(path)


@pytest.mark.parametrize("name", ["banana", "cuda:99", "meta:x", ""])
def test_a_device_that_is_not_here_is_no_option(name: str) -> None:
    with pytest.raises(typer.BadParameter, match="cannot be used here"):
        usable_device(name)
    assert usable_device("cpu") == "cpu"
    assert usable_device(None) is None
