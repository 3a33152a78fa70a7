"""Histories whose truth is known: what ails them is found, and healthy ones are left in peace."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from acestep.training.diagnosis import (
    Finding,
    diagnose,
    find_collapse,
    find_data_trouble,
    find_instability,
    find_overfitting,
    find_underfitting,
    training_change,
)
from acestep.training.history import RunHistory
from made_histories import MadeRun, flat, learning, until

CONFIG = {"training": {"learning_rate": 3e-4, "max_grad_norm": 1.0, "warmup_steps": 10}, "lora": {"rank": 16}}


def rising_after(epoch: float, slope: float) -> Callable[[float], float]:
    return lambda at: learning(by=0.1)(min(at, epoch)) + max(at - epoch, 0) * slope


OVERFITTED = MadeRun(train=learning(by=0.4, pace=25), held_out=rising_after(15, 0.002), config=CONFIG)
UNMOVED = MadeRun(train=flat, held_out=flat, tracks=48, config=CONFIG)
COLLAPSED = MadeRun(train=learning(pace=3), likeness=(0.3, 0.85, 0.9, 0.9), config=CONFIG)
SPIKY = MadeRun(norms=lambda share: 40.0 if share > 0.8 and int(share * 360) % 12 == 0 else 1.0, config=CONFIG)
GROWING = MadeRun(norms=lambda share: math.exp(3 * share), config=CONFIG)
DIVERGED = MadeRun(train=lambda epoch: learning()(epoch) if epoch < 55 else 2.0, config=CONFIG)
ONE_WRONG_TRACK = MadeRun(hardness={3: 5.0}, config=CONFIG)


@pytest.mark.parametrize(
    ("made", "find"),
    [
        (OVERFITTED, find_overfitting),
        (replace(OVERFITTED, held_out_tracks=1, held_out=rising_after(15, 0.004)), find_overfitting),
        (UNMOVED, find_underfitting),
        (COLLAPSED, find_collapse),
        (SPIKY, find_instability),
        (GROWING, find_instability),
        (DIVERGED, find_instability),
        (ONE_WRONG_TRACK, find_data_trouble),
        (replace(ONE_WRONG_TRACK, hardness={3: 0.2}), find_data_trouble),
    ],
    ids=[
        "overfitting",
        "overfitting on one track",
        "underfitting",
        "collapse",
        "spikes",
        "growth",
        "jump",
        "hard",
        "easy",
    ],
)
def test_what_ails_a_run_is_found_nine_times_in_ten(made: MadeRun, find: Callable[[RunHistory], Finding | None]):
    assert sum(find(made.history(seed)) is not None for seed in range(20)) >= 18


@pytest.mark.parametrize(
    "made",
    [
        MadeRun(),
        MadeRun(wandering=0.02, own=0.02, likeness=(0.1, 0.4, -0.2, 0.6, 0.5)),
        MadeRun(held_out_tracks=1),
        MadeRun(held_out_tracks=0, tracks=9, accumulation=2),
        MadeRun(train=learning(by=0.1, pace=40), held_out=learning(by=0.1, pace=40), tracks=60, epochs=30),
        MadeRun(held_out=flat, example_noise=0.6),
    ],
    ids=["plain", "noisy", "one held out", "none held out", "slow", "learns by training loss alone"],
)
def test_healthy_runs_are_left_in_peace(made: MadeRun):
    told: Counter[str] = Counter()
    for seed in range(12):
        history = made.history(seed)
        looks = range(5, made.epochs + 1, 9)
        told.update({finding.kind for epoch in looks for finding in diagnose(until(history, epoch))})
    assert sum(told.values()) <= 1, told


def test_of_an_ailing_run_nothing_else_is_said():
    for made, kind in ((OVERFITTED, "overfitting"), (ONE_WRONG_TRACK, "data"), (GROWING, "instability")):
        kinds = [finding.kind for seed in range(5) for finding in diagnose(made.history(seed))]
        assert kinds == [kind] * 5


def test_overfitting_is_seen_soon_and_not_before_it_begins():
    for seed in range(6):
        history = OVERFITTED.history(seed)
        first = next(epoch for epoch in range(5, 61) if find_overfitting(until(history, epoch)) is not None)
        assert 16 <= first <= 35


def test_the_message_holds_the_numbers_and_the_advice_the_keys_with_values():
    finding = find_overfitting(OVERFITTED.history(1))
    assert finding is not None
    assert finding.evidence["best_epoch"] == pytest.approx(15, abs=4)
    assert f"since epoch {finding.evidence['best_epoch']}" in finding.message
    assert "training.learning_rate: 0.00015" in finding.advice
    assert "lora.rank: 8" in finding.advice
    unmoved = find_underfitting(UNMOVED.history(1))
    assert unmoved is not None
    assert "training.learning_rate: 0.0009" in unmoved.advice
    wrong = find_data_trouble(ONE_WRONG_TRACK.history(1))
    assert wrong is not None
    assert wrong.subjects == ("track_003.wav",)
    assert "track_003.wav" in wrong.message
    assert json.loads(json.dumps(asdict(wrong)))["kind"] == "data"


def test_a_rise_without_a_falling_training_loss_is_no_overfitting():
    worse = replace(OVERFITTED, train=rising_after(15, 0.002))
    assert not any(find_overfitting(worse.history(seed)) for seed in range(8))


def test_alike_songs_of_a_run_that_still_learns_are_no_collapse():
    learns = replace(COLLAPSED, train=lambda epoch: math.exp(-epoch / 20))
    assert find_collapse(learns.history(0)) is None
    once = replace(COLLAPSED, likeness=(0.3, 0.4, 0.85))
    assert find_collapse(once.history(0)) is None
    assert find_collapse(replace(once, likeness=(0.3, 0.97)).history(0)) is not None


def test_the_change_of_the_training_loss_is_measured_in_spite_of_the_levels():
    made = MadeRun(train=lambda epoch: 1.0 if epoch < 30 else 0.8, tracks=40)
    changes = [training_change(made.history(seed).steps, until=30) for seed in range(10)]
    assert all(change is not None for change in changes)
    assert np.mean([change.share for change in changes if change]) == pytest.approx(-0.2, abs=0.02)
    assert all(change.p_value < 0.01 for change in changes if change)


def test_where_nothing_changes_the_p_values_are_even():
    made = MadeRun(train=flat, epochs=6, tracks=12, held_out_tracks=0)
    found = [training_change(made.history(seed).steps) for seed in range(300)]
    p = np.array([change.p_value for change in found if change])
    assert len(p) == 300
    for level in (0.05, 0.5):
        assert np.mean(p < level) == pytest.approx(level, abs=0.06)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_of_a_run_that_has_only_begun_nothing_is_said(epoch: int):
    assert diagnose(until(OVERFITTED.history(0), epoch)) == ()


def test_holes_in_the_record_are_passed_over():
    history = OVERFITTED.history(0)
    history.steps.examples.loss[::7] = math.nan
    history.steps.examples.loss[1::50] = 0.0
    history.steps.grad_norm[:] = math.nan
    strange = replace(history, config={"training": "no section", "lora": {"rank": "many"}})
    assert [finding.kind for finding in diagnose(strange)] == ["overfitting"]
