from __future__ import annotations

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from acestep.cli.lora_weights import WeightedLora, parse_lora
from acestep.lora.schedule import NoiseRange, Section, Strength


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("my_lora", "my_lora", None),
        ("my_lora:0.8", "my_lora", 0.8),
        ("./out/adapter:-0.5", "./out/adapter", -0.5),
        ("someone/a-lora:1e-1", "someone/a-lora", 0.1),
        (r"C:\loras\mine", r"C:\loras\mine", None),
        (r"C:\loras\mine:0.7", r"C:\loras\mine", 0.7),
        ("D:/loras/mine", "D:/loras/mine", None),
        ("take:2:0.5", "take:2", 0.5),
        ("night: the return", "night: the return", None),
        ("x" * 5000, "x" * 5000, None),
        ("take:second, slow", "take:second, slow", None),
    ],
)
def test_a_path_and_a_weight_part_where_people_mean_it(text: str, path: str, weight: float | None) -> None:
    assert parse_lora(text) == WeightedLora(path, weight)


def test_a_name_that_ends_like_a_weight_is_whole_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take:2").mkdir()
    assert parse_lora("take:2") == WeightedLora("take:2")
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("choir:0.3,1.0@32-48s", WeightedLora("choir", 0.3, ((32.0, 48.0, 1.0),))),
        ("choir:1@32-48s", WeightedLora("choir", None, ((32.0, 48.0, 1.0),))),
        ("a/b:.5, -1@0-8.5s, 2@8-9s", WeightedLora("a/b", 0.5, ((0.0, 8.5, -1.0), (8.0, 9.0, 2.0)))),
        ("choir:1,x0@1-0.7noise", WeightedLora("choir", 1.0, (), ((1.0, 0.7, 0.0),))),
        (r"C:\l:0.5,1@2-3s,x.5@.7-0noise", WeightedLora(r"C:\l", 0.5, ((2.0, 3.0, 1.0),), ((0.7, 0.0, 0.5),))),
    ],
)
def test_strengths_follow_the_song_and_its_noise(text: str, expected: WeightedLora) -> None:
    assert parse_lora(text) == expected


def test_what_the_pipeline_is_given_is_a_number_or_a_strength_that_is_silent_outside_its_sections() -> None:
    assert parse_lora("choir").strength() is None
    assert parse_lora("choir:0.3").strength() == 0.3
    only_there = parse_lora("choir:1@32-48s,x0.5@1-0.7noise").strength()
    assert only_there == Strength(0.0, (Section(32, 48, 1.0),), (NoiseRange(1.0, 0.7, 0.5),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("choir:1@48-32s", "ends before it starts; write WEIGHT@START-ENDs"),
        ("choir:1@32-48", "neither a section nor a noise range; write WEIGHT@START-ENDs, as in 1@32-48s"),
        ("choir:1@chorus", "neither a section nor a noise range"),
        ("choir:1,x0@0.7-1noise", "levels fall from 1"),
        ("choir:1,x0@2-1noise", "levels fall from 1"),
        ("choir:x0@1-0.7noise", "no weight that it changes"),
        ("choir:1@2-3s,0.5", "not a number that comes first"),
        ("choir:0.3,", r"as in \./choir:0.3,1@32-48s"),
        ("choir:11@2-3s", "give -10 to 10"),
        ("choir:1e999@2-3s", "give -10 to 10"),
    ],
)
def test_strengths_that_are_malformed_are_answered_with_the_right_form(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        parse_lora(text)


@given(st.text(max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    try:
        found = parse_lora(text)
    except typer.BadParameter:
        return
    assert text.startswith(found.path)


def test_a_word_after_an_existing_path_was_meant_as_a_weight(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"'strong'.*not a number"):
        parse_lora(f"{tmp_path}:strong")
