from __future__ import annotations

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from acestep.conditioning.language_guess import guess_language, significant_text
from reference_data import load_json


def test_guesses_are_those_of_py3langid_itself():
    identifier = LanguageIdentifier.from_pickled_model(MODEL_FILE, norm_probs=True)
    lines = [golden["line"] for golden in load_json("lyrics/langdetect_goldens.json")]
    for text in ["", *lines, *(line[:3] for line in lines)]:
        language, probability = identifier.classify(text)
        assert guess_language(text) == (language, round(float(probability), 3)), text


@pytest.mark.parametrize(
    ("text", "significant"), [("Hello,  (world)!", "Helo world"), ("...", ""), ("爱爱爱", "爱"), (" a\n b ", "a b")]
)
def test_what_counts_for_a_guess_is_words_without_marks_or_doubling(text: str, significant: str):
    assert significant_text(text) == significant
