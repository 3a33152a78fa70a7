from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.conditioning.language_spans import Span, split_spans

LINES = st.text(st.sampled_from("abé 爱あ나Яก12.,!?\"'()“”《》_-"), max_size=60).map(lambda text: f"{text}\n")


@given(LINES)
def test_spans_join_to_the_line_they_were_cut_from(line: str):
    spans = split_spans(line)
    assert "".join(span.text for span in spans) == line
    for span in spans:
        if span.inner:
            assert "".join(inner.text for inner in span.inner) == span.text


@given(LINES)
def test_the_last_span_is_plain(line: str):
    assert split_spans(line)[-1].kind == "plain"


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("hello 世界", ["latin", "plain"]),
        ("나는 I", ["ko", "latin", "plain"]),
        ("Straße", ["latin", "plain", "latin", "plain"]),
        ("12.5", ["plain"]),
        ("12.5 a", ["number", "latin", "plain"]),
        ("Где ты?", ["ru", "plain"]),
        ("他说“我爱你”", ["plain", "quotation", "plain"]),
    ],
)
def test_scripts_numbers_and_quotations_are_told_apart(line: str, kinds: list[str]):
    assert [span.kind for span in split_spans(line)] == kinds


def test_a_quotation_holds_the_spans_inside_it():
    quotation = split_spans("他说“我love你”")[1]
    assert quotation.inner_text == "我love你"
    assert [(span.kind, span.text) for span in quotation.inner] == [
        ("plain", "“我"),
        ("latin", "love"),
        ("plain", "你”"),
    ]


def test_a_line_that_is_one_quotation_is_plain():
    assert split_spans("“我爱你”") == [Span("plain", "“我爱你”")]
