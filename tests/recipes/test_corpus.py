import numpy as np
from recipes.nano.corpus import mixed_style, plan_track

from acestep.datasets.synthesis import NOVEL_STYLES, STYLES


def test_a_plan_depends_on_its_corpus_and_index_alone():
    assert plan_track("songs", 5) == plan_track("songs", 5)


def test_songs_go_through_all_styles_and_a_quarter_is_a_minute_long():
    plans = [plan_track("songs", index) for index in range(56)]
    assert {plan.style for plan in plans} == set(STYLES)
    assert sum(plan.duration_s == 60 for plan in plans) == 14


def test_no_stage_hears_an_instrument_of_the_novel_styles():
    reserved = {
        name for style in NOVEL_STYLES.values() for name in (*style.bass, *style.chords, *style.lead, *style.extra)
    }
    for seed in range(30):
        mixed = mixed_style(np.random.default_rng(seed))
        assert reserved.isdisjoint((*mixed.bass, *mixed.chords, *mixed.lead, *mixed.extra))
