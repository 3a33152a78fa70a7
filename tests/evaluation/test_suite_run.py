"""The suite from end to end on nano, with adapters whose answer is known."""

import json
from pathlib import Path

import pytest

from acestep import ACEStepPipeline
from acestep.evaluation.suite import read_suite
from acestep.evaluation.suite_run import damage_by_strength
from acestep.lora import write_adapter
from evaluation.random_adapter import random_adapter

SAMPLING = {"steps": 2, "duration_s": 5.0, "seeds": (1,)}


@pytest.fixture(scope="module")
def nano() -> ACEStepPipeline:
    return ACEStepPipeline.from_pretrained("nano", device="cpu")


def test_zeros_cost_nothing_and_a_wreck_costs_more_the_stronger_it_is(nano: ACEStepPipeline, tmp_path: Path) -> None:
    suite = read_suite()
    edge = [prompt for prompt in suite.edge if prompt.id in ("empty", "too-long")]
    zeros = write_adapter(tmp_path / "zeros", random_adapter(nano.family.network, size=0.0))
    wreck = write_adapter(tmp_path / "wreck", random_adapter(nano.family.network, size=6.0))
    heard: list[tuple[int, int]] = []
    name = nano.load_lora(zeros)
    nothing = damage_by_strength(
        nano, name, suite.first(1), edge, strengths=(1.0,), progress=lambda *p: heard.append(p), **SAMPLING
    )[1.0]
    nano.unload_lora(name)
    assert heard[-1] == (6, 6)
    assert nothing.harms == ()
    assert nothing.loss_rise is not None
    assert nothing.loudness_db is not None
    assert nothing.loss_rise.value == nothing.loudness_db.value == 0.0
    assert {outcome.id: outcome.base for outcome in nothing.edge} == {"empty": "song", "too-long": "refused"}

    name = nano.load_lora(wreck)
    wrecked = damage_by_strength(nano, name, suite.first(1), strengths=(0.2, 0, 2.0, 2.0), **SAMPLING)
    assert nano.loras == {name: 0.0}
    nano.unload_lora(name)
    assert list(wrecked) == [0.2, 2.0]
    mild, strong = wrecked.values()
    assert mild.loss_rise is not None
    assert strong.loss_rise is not None
    assert 0 < mild.loss_rise.value < strong.loss_rise.value
    json.dumps([damage.as_dict() for damage in wrecked.values()], allow_nan=False)
