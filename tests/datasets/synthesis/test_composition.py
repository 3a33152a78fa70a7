from itertools import pairwise

import numpy as np
import pytest

from acestep.datasets.synthesis.composition import compose, plan_sections
from acestep.datasets.synthesis.styles import STYLES
from acestep.datasets.synthesis.theory import SCALES, Key


@pytest.mark.parametrize("bars", [5, 16, 37])
def test_sections_share_out_all_bars_without_gaps(bars: int):
    sections = plan_sections(("intro", "verse", "chorus", "outro"), bars)
    assert sections[0].bar == 0
    assert all(one.bar + one.bars == following.bar for one, following in pairwise(sections))
    assert sections[-1].bar + sections[-1].bars == bars


def test_a_verse_gets_about_twice_the_bars_of_an_intro():
    intro, verse = plan_sections(("intro", "verse"), 30)
    assert intro.bars == 10
    assert verse.bars == 20


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_chords_melody_and_arpeggio_stay_in_the_key(mode: str):
    key = Key(9, mode)
    sections = plan_sections(("verse", "chorus"), 8)
    score = compose(STYLES["rock"], key, sections, np.random.default_rng(0), sung=[[], []])
    allowed = {(9 + step) % 12 for step in SCALES[mode]}
    pitched = [note for part in ("chords", "lead") for note in score.parts[part]]
    assert {note.midi % 12 for note in pitched} <= allowed


def test_bars_of_every_style_have_one_length():
    for style in STYLES.values():
        patterns = [line.pattern for kit in style.drums for line in kit]
        patterns += [*style.bass_patterns, *style.chord_patterns, *style.melody_patterns, *style.extra_patterns]
        assert {len(pattern) for pattern in patterns} == {16}, style.name
