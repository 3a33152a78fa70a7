from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from acestep.conditioning.romanisation import romanise


@pytest.mark.parametrize(
    ("text", "language", "latin"),
    [("银行", "zh", "yin2hang2"), ("了", "zh", "le5"), ("사랑", "ko", "salang"), ("café", "fr", "café")],
)
def test_each_script_has_its_spelling(text: str, language: str, latin: str):
    assert romanise(text, language) == latin


def test_japanese_is_the_same_from_many_threads():
    lines = ["夜の街を歩いている", "桜が咲く春の日", "心の中で"] * 8
    expected = [romanise(line, "ja") for line in lines]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda line: romanise(line, "ja"), lines)) == expected
