from __future__ import annotations

import math

import pytest
import torch

from acestep.lora import Adapter, Factors
from acestep.lora.merge import interference as module_under_test
from acestep.lora.merge import measure_interference


def adapter(seed: int, *, rank: int = 3, size: int = 20) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            name: Factors(
                torch.randn(rank, size, generator=generator), torch.randn(size + 4, rank, generator=generator)
            )
            for name in ("a", "b")
        }
    )


def test_cosine_norms_and_signs_are_those_of_the_dense_changes():
    one, other = adapter(1), adapter(2)
    found = measure_interference([("one", one), ("other", other)])
    first, second = (torch.cat([f.delta().flatten() for f in made.factors.values()]) for made in (one, other))
    pair = found.pairs[0]
    assert pair.cosine == pytest.approx(float(torch.cosine_similarity(first, second, dim=0)), abs=1e-5)
    assert found.norms == pytest.approx((float(first.norm()), float(second.norm())), rel=1e-5)
    for module in pair.modules:
        x, y = one.factors[module.module].delta(), other.factors[module.module].delta()
        assert module.cosine == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())), abs=1e-5)
        assert module.norm_ratio == pytest.approx(float(x.norm() / y.norm()), rel=1e-5)
        assert module.sign_conflict == pytest.approx(float((x * y < 0).float().mean()))


def test_norms_are_matched_at_their_geometric_mean():
    one = adapter(1)
    other = Adapter({name: factors.scaled(4.0) for name, factors in one.factors.items()})
    found = measure_interference([("one", one), ("other", other)])
    assert found.matched == pytest.approx((2.0, 0.5))


def test_principal_angles_say_what_two_changes_share():
    eye = torch.eye(6)
    one = Adapter({"m": Factors(eye[:2], eye[:, :2])})
    turned = math.radians(30)
    second_row = math.cos(turned) * eye[1] + math.sin(turned) * eye[4]
    other = Adapter({"m": Factors(torch.stack([eye[0], second_row]), eye[:, 2:4])})
    module = measure_interference([("one", one), ("other", other)]).pairs[0].modules[0]
    assert module.inputs_deg == pytest.approx((0, 30), abs=0.1)
    assert module.outputs_deg == pytest.approx((90, 90))
    assert module.overlap_inputs == pytest.approx((1 + math.cos(turned) ** 2) / 2)
    assert module.overlap_outputs == pytest.approx(0)
    assert module.cosine == pytest.approx(0)


def test_padding_and_the_way_factors_are_written_change_nothing():
    one, other = adapter(1), adapter(2)
    mixed = torch.randn(3, 3, generator=torch.Generator().manual_seed(5))
    rewritten = Adapter(
        {name: Factors(mixed @ f.a, f.b @ torch.linalg.inv(mixed)).padded(7) for name, f in one.factors.items()}
    )
    plain = measure_interference([("one", one), ("other", other)]).pairs[0].modules[0]
    again = measure_interference([("one", rewritten), ("other", other)]).pairs[0].modules[0]
    assert again.inputs_deg == pytest.approx(plain.inputs_deg, abs=0.1)
    assert again.cosine == pytest.approx(plain.cosine, abs=1e-4)
    assert len(again.inputs_deg) == 3


def test_signs_of_large_changes_are_sampled(monkeypatch: pytest.MonkeyPatch):
    one, other = adapter(1), adapter(2)
    exact = measure_interference([("one", one), ("other", other)]).pairs[0].modules[0].sign_conflict
    monkeypatch.setattr(module_under_test, "PLACES", 400)
    sampled = measure_interference([("one", one), ("other", other)]).pairs[0].modules[0].sign_conflict
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.1)


def test_an_adapter_beside_itself_and_its_opposite():
    one = adapter(1)
    turned = Adapter({name: factors.scaled(-1.0) for name, factors in one.factors.items()})
    found = measure_interference([("one", one), ("one again", one), ("turned", turned)])
    assert [round(pair.cosine, 5) for pair in found.pairs] == [1, -1, -1]
    assert [pair.sign_conflict for pair in found.pairs] == [0, 1, 1]


def test_adapters_with_nothing_in_common_and_zero_ones_are_told():
    one = adapter(1)
    other = Adapter({"c": one.factors["a"]})
    zero = Adapter({"a": one.factors["a"].scaled(0.0)})
    found = measure_interference([("one", one), ("other", other), ("zero", zero)])
    assert [(len(p.modules), p.only_first, p.only_second) for p in found.pairs] == [(0, 2, 1), (0, 1, 0), (0, 1, 1)]
    assert found.matched[2] == 1
    assert all(math.isfinite(pair.cosine) for pair in found.pairs)
