from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from acestep.errors import InputError
from acestep.evaluation.held_out import HeldOutClip, clip_losses, compare_losses, training_levels
from acestep.lora.adapter import Adapter, Factors
from acestep.lora.attach import attach, module_shapes, set_weights
from small_family import SmallFamily

MODULE = "transformer_blocks.0.attn.to_q"


def make_clips(family: SmallFamily, count: int = 4) -> list[HeldOutClip]:
    torch.manual_seed(1)
    return [
        HeldOutClip(f"recording {n // 2}", torch.randn(8, 16, 6), family.encode_prompt([f"tone {n}"], [""]))
        for n in range(count)
    ]


def adapter_of(family: SmallFamily, size: float) -> Adapter:
    rows, columns = module_shapes(family.network)[MODULE][:2]
    torch.manual_seed(2)
    return Adapter({MODULE: Factors(torch.randn(2, columns), size * torch.randn(rows, 2))})


def test_the_loss_is_the_one_that_training_minimises() -> None:
    """Of a model that predicts no velocity, it is sigma squared times the mean square of noise less clean."""
    family = SmallFamily()
    family.velocity = lambda latents, sigmas, conditioning: torch.zeros_like(latents)  # type: ignore[method-assign]
    clip = HeldOutClip("silence", torch.zeros(8, 16, 200), family.encode_prompt(["none"], [""]))
    sigmas = torch.tensor([1.0, 0.5, 0.1])
    np.testing.assert_allclose(clip_losses(family, [clip], sigmas)[0], sigmas.numpy() ** 2, rtol=0.03)


def test_levels_are_quantiles_of_what_training_draws() -> None:
    family = SmallFamily()
    from acestep.diffusion.flow_matching import logit_normal_sigmas
    from acestep.diffusion.schedules import training_sigmas

    torch.manual_seed(0)
    drawn = logit_normal_sigmas(torch.randn(20000), training_sigmas(shift=family.noise.shift))
    levels = training_levels(family, 8)
    assert levels.mean().item() == pytest.approx(drawn.mean().item(), abs=0.01)
    assert (levels[:-1] > levels[1:]).all()


def test_two_calls_meet_the_same_noise_and_another_seed_other_noise() -> None:
    family = SmallFamily()
    clips, sigmas = make_clips(family), training_levels(family, 3)
    first, again = clip_losses(family, clips, sigmas), clip_losses(family, clips, sigmas)
    np.testing.assert_array_equal(first, again)
    assert (clip_losses(family, clips, sigmas, seed=1) != first).all()


def test_an_adapter_of_zeros_changes_no_loss_and_another_one_does() -> None:
    family = SmallFamily()
    clips, sigmas = make_clips(family), training_levels(family, 3)
    base = clip_losses(family, clips, sigmas)
    attach(family.network, adapter_of(family, 0.0), name="zeros")
    attach(family.network, adapter_of(family, 3.0), name="noise", weight=0.0)
    unchanged = compare_losses(base, clip_losses(family, clips, sigmas), sigmas, clips)
    assert unchanged.change.value == 0
    assert not unchanged.change.falls
    set_weights(family.network, {"noise": 1.0})
    changed = compare_losses(base, clip_losses(family, clips, sigmas), sigmas, clips)
    assert changed.change.value != 0


def test_recordings_are_counted_and_not_their_clips() -> None:
    family = SmallFamily()
    clips, sigmas = make_clips(family, 6), torch.tensor([0.5])
    base = np.zeros((6, 1))
    lower = base - np.array([[1], [3], [5], [7], [9], [11]])
    comparison = compare_losses(base, lower, sigmas, clips)
    assert comparison.change.count == 3
    assert comparison.change.value == -6
    assert comparison.by_level[0][0] == 0.5


def test_no_recordings_are_refused() -> None:
    family = SmallFamily()
    assert isinstance(family.network, nn.Module)
    with pytest.raises(InputError, match="no held-out recordings"):
        clip_losses(family, [], torch.tensor([0.5]))
