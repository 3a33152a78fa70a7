from __future__ import annotations

import math

import pytest

from acestep.evaluation.measures import Figure
from acestep.evaluation.strengths import AtStrength, judge_strengths
from acestep.evaluation.uncertainty import Estimate


def aim(change: float, spread: float = 0.05) -> Figure:
    return Figure("style", "Style", 1.0, 1 + change, Estimate(change, change - spread, change + spread, 4), "")


def loss(change: float, spread: float = 0.001) -> Figure:
    interval = Estimate(change, change - spread, change + spread, 4)
    return Figure("held_out_loss", "Loss", 1.0, 1 + change, interval, "")


def point(strength: float, *figures: Figure, **more: object) -> AtStrength:
    return AtStrength(strength, figures, moved=1.0, songs=4, **more)


def test_the_lowest_strength_with_nearly_all_of_the_gain_is_recommended() -> None:
    curve = judge_strengths([point(1.5, aim(-0.8)), point(0.5, aim(-0.3)), point(1.0, aim(-0.75))])
    assert curve.good == (0.5, 1.0, 1.5)
    assert curve.recommended == 1.0


def test_a_strength_that_harms_is_not_good_however_much_it_gains() -> None:
    rising = point(1.5, aim(-0.9), loss(0.01))
    silent = point(1.2, aim(-0.8), flaws={"silent": 2})
    damaged = point(1.1, aim(-0.8), damage=("the tempo in prompts is kept less",))
    curve = judge_strengths([point(0.5, aim(-0.4)), rising, silent, damaged])
    assert curve.good == (0.5,)
    assert curve.recommended == 0.5
    assert [entry["harms"] for entry in curve.as_dict()["points"]] == [
        [],
        ["the tempo in prompts is kept less"],
        ["2 songs silent"],
        ["held-out loss rises"],
    ]


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([point(1.0)], "without recordings"),
        ([point(1.0, aim(-0.02))], "no strength gains"),
        ([point(1.0, aim(-0.5), loss(0.1))], "at 1 held-out loss rises"),
        ([AtStrength(1.0, (aim(0.0),), songs=4)], "has a measurable effect"),
    ],
)
def test_where_nothing_is_good_nothing_is_recommended_and_the_reason_said(
    points: list[AtStrength], reason: str
) -> None:
    curve = judge_strengths(points)
    assert curve.recommended is None
    assert reason in curve.reason


def test_an_interval_without_an_end_is_no_gain() -> None:
    unsure = Figure("style", "Style", 1.0, 0.2, Estimate(-0.8, -math.inf, math.inf, 1), "")
    assert judge_strengths([point(1.0, unsure)]).recommended is None


def test_going_past_the_recordings_is_no_further_gain() -> None:
    def placed(place: float) -> Figure:
        interval = Estimate(place - 1, place - 1.05, place - 0.95, 4)
        return Figure("style", "Style", 1.0, place, interval, "", recordings=0.0)

    curve = judge_strengths([point(0.5, placed(0.5)), point(1.0, placed(0.1)), point(2.0, placed(-0.9))])
    assert curve.recommended == 1.0
    assert curve.good == (0.5, 1.0)
    assert curve.points[-1].harms == ("songs overshoot the style",)


def test_a_strength_below_zero_is_never_recommended() -> None:
    assert judge_strengths([point(-1.0, aim(-0.5))]).recommended is None
