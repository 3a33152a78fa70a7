from __future__ import annotations

from pathlib import Path

import pytest
import typer

from acestep.cli.lora_weights import WeightedLora, parse_lora


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("my_lora", "my_lora", 1.0),
        ("my_lora:0.8", "my_lora", 0.8),
        ("./out/adapter:-0.5", "./out/adapter", -0.5),
        ("someone/a-lora:1e-1", "someone/a-lora", 0.1),
        (r"C:\loras\mine", r"C:\loras\mine", 1.0),
        (r"C:\loras\mine:0.7", r"C:\loras\mine", 0.7),
        ("D:/loras/mine", "D:/loras/mine", 1.0),
        ("take:2:0.5", "take:2", 0.5),
        ("night: the return", "night: the return", 1.0),
    ],
)
def test_a_path_and_a_weight_part_where_people_mean_it(text: str, path: str, weight: float) -> None:
    assert parse_lora(text) == WeightedLora(path, weight)


def test_a_name_that_ends_like_a_weight_is_whole_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:2").mkdir()
    assert parse_lora("take:2") == WeightedLora("take:2", 1.0)
    assert parse_lora("take:2:0.5") == WeightedLora("take:2", 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no LoRA"),
        (":0.5", "names no LoRA"),
        ("mine:", "not a number"),
        ("mine:nan", "give -10 to 10"),
        ("mine:inf", "give -10 to 10"),
        ("mine:11", "give -10 to 10"),
    ],
)
def test_a_weight_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        parse_lora(text)


def test_a_word_after_an_existing_path_was_meant_as_a_weight(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"'strong'.*not a number"):
        parse_lora(f"{tmp_path}:strong")
