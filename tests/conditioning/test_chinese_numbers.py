from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.conditioning.chinese_numbers import (
    punctuation_to_commas,
    read_digits,
    read_value,
    spell_chinese_numbers,
)


@pytest.mark.parametrize(
    ("number", "spoken"),
    [
        ("0", "零"),
        ("2", "二"),
        ("10", "十"),
        ("12", "十二"),
        ("22", "二十二"),
        ("200", "两百"),
        ("1012", "一千零一十二"),
        ("2022", "两千零二十二"),
        ("10200", "一万零二百"),
        ("120000", "十二万"),
        ("100000000", "一亿"),
        ("05", "零五"),
        ("0.5", "零点五"),
        ("12.50", "十二点五零"),
    ],
)
def test_a_number_is_read_by_its_value(number: str, spoken: str):
    assert read_value(number) == spoken


@given(st.integers(min_value=0, max_value=10**48 - 1))
def test_a_value_read_aloud_is_the_number_again(number: int):
    assert _value_of(read_value(str(number))) == number


def test_a_number_beyond_the_named_units_is_read_digit_by_digit():
    assert read_value("1" * 60) == "一" * 60


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("2024年5月1日", "二零二四年五月一日"),
        ("3块5毛", "三块五毛"),
        ("13812345678", "一三八一二三四五六七八"),
        ("010-12345678", "零一零一二三四五六七八"),
        ("1/4", "四分之一"),
        ("14％", "百分之十四"),
        ("2000个梦", "两千个梦"),
        ("2000", "二零零零"),
        ("200", "两百"),
        ("p2p", "p2p"),
    ],
)
def test_numbers_are_read_as_what_they_count(written: str, spoken: str):
    assert spell_chinese_numbers(written) == spoken


def test_every_mark_becomes_a_comma():
    assert punctuation_to_commas("“爱”！(a)") == ",爱,,,a,"


def test_digits_of_any_script_are_read():
    assert read_digits("٣4") == "三四"


def _value_of(spoken: str) -> int:
    """An independent reading: sum the parts below 万, then scale at each larger unit."""
    digits = {name: value for value, name in enumerate("零一二三四五六七八九")} | {"两": 2}
    large = {name: 10 ** (4 * (power + 1)) for power, name in enumerate("万亿兆京垓秭穰沟涧正载")}
    small = {"十": 10, "百": 100, "千": 1000}
    total, below, digit = 0, 0, 0
    for name in f"一{spoken}" if spoken.startswith("十") else spoken:
        if name in digits:
            digit = digits[name]
        elif name in small:
            below, digit = below + digit * small[name], 0
        else:
            total, below, digit = total + (below + digit) * large[name], 0, 0
    return total + below + digit
