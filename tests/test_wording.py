from __future__ import annotations

import pytest

from acestep.wording import names_text, size_text, time_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_600, "1.0 MB"),
        (999_400, "999 kB"),
        (8_300_000_000, "8.3 GB"),
        (139e9, "139 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_read_as_disks_are_told(size: float, text: str):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0421, "0.042 s"), (3.14, "3.1 s"), (42, "42 s"), (99.6, "2 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_times_read_as_people_tell_them(seconds: float, text: str):
    assert time_text(seconds) == text


def test_many_names_are_cut_and_counted():
    assert names_text(["a.wav"]) == "a.wav"
    assert names_text(list("abcde")) == "a, b, c, d, e"
    assert names_text(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert names_text(list("abc"), shown=1) == "a and 2 more"
    assert names_text([]) == "none"
