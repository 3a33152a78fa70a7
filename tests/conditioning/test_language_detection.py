from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.conditioning.language_detection import detect_language, detect_languages
from reference_data import load_json


def test_every_golden_line_is_cut_weighed_and_named_as_the_released_segmenter_does():
    for golden in load_json("lyrics/langdetect_goldens.json"):
        detection = detect_languages(golden["line"])
        segments = [{"lang": segment.language, "text": segment.text} for segment in detection.segments]
        assert segments == golden["segments"], golden["line"]
        assert [list(weight) for weight in detection.weights] == golden["counts"], golden["line"]
        assert detect_language(golden["line"]) == golden["detected"], golden["line"]


def test_each_line_of_whole_lyrics_is_named_as_the_released_segmenter_does():
    for golden in load_json("lyrics/whole_lyrics_goldens.json"):
        lines = [line.strip() for line in golden["lyrics"].split("\n")]
        for line, language in zip(lines, golden["inference_line_langs"], strict=True):
            if line:
                assert detect_language(line) == language, line


def test_angle_brackets_are_text():
    # The one deliberate difference: the released segmenter took these for markup and named the line Japanese.
    detection = detect_languages("<ja>hello</ja>")
    assert "".join(segment.text for segment in detection.segments).strip() == "<ja>hello</ja>"
    assert "ja" not in dict(detection.weights)


@pytest.mark.parametrize("blank", ["", "  ", "\n\n"])
def test_a_blank_lyric_has_no_segment(blank: str):
    assert detect_languages(blank).segments == ()
    assert detect_language(blank) == "zh"


@settings(deadline=None, max_examples=80)
@given(st.text(st.sampled_from("爱你的春あ漢a é나Я1.。，！“”()\"' \n"), max_size=40))
def test_no_letter_is_lost_or_moved(text: str):
    # Spaces may be: counting adds some to English, and blank stretches are dropped. The released segmenter lost
    # Han characters that waited for a decision at the very end.
    kept = "".join(segment.text for segment in detect_languages(text).segments)
    assert "".join(kept.split()) == "".join(text.split())


def test_han_characters_at_the_very_end_join_what_came_before():
    text = "人人都说“爱你”哦“春春”"
    assert "".join(segment.text for segment in detect_languages(text).segments) == text
