from __future__ import annotations

import pytest
import torch
from torch import Tensor

from acestep.diffusion.flow_matching import (
    add_noise,
    clean_estimate,
    clean_loss,
    logit_normal_sigmas,
    released_masked_loss,
)
from acestep.diffusion.schedules import training_sigmas
from reference_data import load_golden


def assert_near(ours: Tensor, golden: Tensor) -> None:
    assert (ours - golden).abs().max() <= 2e-6 * golden.abs().max()


def test_levels_are_drawn_as_released() -> None:
    golden = load_golden("tiny/goldens/schedulers.safetensors")
    assert_near(logit_normal_sigmas(golden["train.u_normal"], training_sigmas()), golden["train.sigmas"])


def test_extreme_normals_stay_inside_the_schedule() -> None:
    sigmas = logit_normal_sigmas(torch.tensor([-1e9, 1e9]), training_sigmas())
    assert sigmas[0] == 1
    assert sigmas[1] == pytest.approx(0.002994, rel=1e-3)


def test_noisy_latents_and_losses_are_the_released_ones() -> None:
    golden = load_golden("tiny/goldens/training_step.safetensors")
    clean, sigmas = golden["in.target_latents"], golden["in.sigma"]
    noisy = add_noise(clean, golden["in.noise"], sigmas)
    assert_near(noisy, golden["out.noisy_latents"])
    estimate = clean_estimate(noisy, golden["out.full_mask.velocity"], sigmas)
    assert_near(estimate, golden["out.full_mask.x0_pred"])
    assert_near(clean_loss(estimate, clean), golden["out.full_mask.per_sample_loss"])
    estimate = clean_estimate(noisy, golden["out.partial_loss_mask.velocity"], sigmas)
    partial = released_masked_loss(estimate, clean, golden["in.loss_mask_partial"])
    assert_near(partial, golden["out.partial_loss_mask.per_sample_loss"])


def test_a_masked_loss_is_the_mean_over_the_frames_that_count() -> None:
    estimate, clean = torch.randn(2, 3, 8, 16, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1.0] * 4 + [0.0] * 2]).repeat(3, 1)
    torch.testing.assert_close(
        clean_loss(estimate, clean, mask), clean_loss(estimate[..., :4], clean[..., :4]), rtol=1e-5, atol=1e-6
    )
