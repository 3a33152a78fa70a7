from __future__ import annotations

import subprocess
import sys

import pytest

import acestep.conditioning


def test_reading_english_lyrics_imports_neither_torch_nor_a_dictionary():
    heavy = ("torch", "transformers", "pypinyin", "cutlet", "fugashi", "num2words", "py3langid", "hangul_romanize")
    code = (
        "import sys; from acestep.conditioning import LyricTokenizer, normalise_line; normalise_line('Hello', 'en');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", acestep.conditioning.__all__)
def test_everything_listed_can_be_had(name: str):
    assert getattr(acestep.conditioning, name).__name__ == name


def test_nothing_else_can():
    with pytest.raises(AttributeError, match="Nothing"):
        acestep.conditioning.Nothing  # noqa: B018
