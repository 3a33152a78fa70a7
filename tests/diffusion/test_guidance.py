from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acestep.diffusion.guidance import (
    Branches,
    GuidedDenoiser,
    apg,
    cfg,
    cfg_zero_star,
    double_condition,
    guidance_scales,
)
from reference_data import load_golden, load_json

GOLDEN = "tiny/goldens/guidance.safetensors"
STEPS = range(4)


def assert_near(ours: Tensor, golden: Tensor) -> None:
    assert (ours - golden).abs().max() <= 2e-6 * golden.abs().max()


def predictions(step: int) -> tuple[Tensor, Tensor, Tensor]:
    golden = load_golden(GOLDEN)
    return golden[f"in.cond.{step}"], golden[f"in.uncond.{step}"], golden[f"in.text_only.{step}"]


def test_apg_carries_its_momentum_as_released() -> None:
    golden, running = load_golden(GOLDEN), None
    for step in STEPS:
        conditional, null, _ = predictions(step)
        velocity, running = apg(conditional, null, 15.0, running=running)
        assert_near(velocity, golden[f"apg.g15.seq.{step}"])
        assert_near(running, golden[f"apg.momentum_state.{step}"])


@pytest.mark.parametrize("step", STEPS)
def test_each_method_is_the_released_one(step: int) -> None:
    golden = load_golden(GOLDEN)
    conditional, null, text_only = predictions(step)
    assert_near(apg(conditional, null, 7.0)[0], golden[f"apg.g7.nomomentum.{step}"])
    assert_near(apg(conditional, null, 7.0, eta=0.5, norm_limit=0.0)[0], golden[f"apg.g7.eta0.5.norm0.{step}"])
    assert_near(cfg(conditional, null, 15.0), golden[f"cfg.g15.{step}"])
    assert_near(cfg_zero_star(conditional, null, 15.0, step=None), golden[f"cfg_star.g15.nozeroinit.{step}"])
    starting = cfg_zero_star(conditional, null, 15.0, step=step)
    torch.testing.assert_close(starting, golden[f"cfg_star.g15.step{step}"], rtol=1e-5, atol=1e-5)
    both = double_condition(conditional, text_only, null, text_scale=5.0, lyric_scale=1.5)
    assert_near(both, golden[f"double.t5.l1.5.{step}"])


def test_the_interval_and_its_decay_are_the_released_ones() -> None:
    for case in load_json("tiny/goldens/guidance_interval.json"):
        if case["steps"] * case["guidance_interval"] <= 1:
            continue
        scales = guidance_scales(
            case["steps"],
            case["guidance_scale"],
            interval=case["guidance_interval"],
            decay=case["decay"],
            min_guidance_scale=case["min_guidance_scale"],
        )
        assert scales == pytest.approx(case["scale_per_step"]), case


def test_an_interval_of_one_step_does_not_divide_by_zero() -> None:
    assert guidance_scales(4, 15.0, interval=0.25, decay=1.0).count(None) == 3


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0])
def test_a_scale_that_changes_nothing_skips_the_null_prediction(guidance_scale: float) -> None:
    def refuse(_latents: Tensor, _sigma: float) -> tuple[Tensor, ...]:
        raise AssertionError("the null branch was evaluated")

    denoise = GuidedDenoiser(Branches(lambda x, _s: 2 * x, refuse), guidance_scales(2, guidance_scale, interval=1.0))
    x = torch.ones(1, 8, 16, 2)
    torch.testing.assert_close(denoise(x, 1.0), 2 * x)
