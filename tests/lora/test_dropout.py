"""Dropout from sixteen bits a number."""

from __future__ import annotations

import pytest
import torch

from acestep.lora.dropout import drop_out


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.93])
def test_the_chance_is_met_and_the_mean_kept(chance: float):
    torch.manual_seed(0)
    dropped = drop_out(torch.ones(1000, 1001), chance)
    # Five standard errors of a million draws.
    assert (dropped == 0).double().mean().item() == pytest.approx(chance, abs=5 * (chance * (1 - chance) / 1e6) ** 0.5)
    assert set(dropped.unique().tolist()) == {0.0, dropped.max().item()}
    assert dropped.max().item() == pytest.approx(1 / (1 - chance), rel=2e-4)


def test_neighbours_fall_out_independently():
    torch.manual_seed(0)
    gone = (drop_out(torch.ones(400_000), 0.5) == 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):
        assert abs((gone[lag:] * gone[:-lag]).mean().item()) < 5 * 0.25 / 400_000**0.5


def test_the_seed_decides_and_every_call_draws_anew():
    def draws() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [drop_out(torch.ones(7, 3), 0.4) for _ in range(2)]

    first, again = draws(), draws()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_gradients_pass_where_numbers_did():
    torch.manual_seed(0)
    x = torch.randn(6, 5, requires_grad=True)
    out = drop_out(x, 0.3)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, out)
    assert 0 < (x.grad == 0).sum() < 30


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_none_and_all_are_what_they_say(chance: float, expected: float):
    assert torch.equal(drop_out(torch.ones(3, 4), chance), torch.full((3, 4), expected))


def test_views_empty_tensors_and_bfloat16_keep_shape_and_dtype():
    x = torch.randn(2, 0, 3)
    assert drop_out(x, 0.5).shape == x.shape
    turned = torch.randn(4, 6).bfloat16().t()
    assert drop_out(turned, 0.5).shape == (6, 4)
    assert drop_out(turned, 0.5).dtype == torch.bfloat16
