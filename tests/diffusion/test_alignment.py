from __future__ import annotations

import pytest
import torch

from acestep.diffusion.alignment import alignment_losses, mean_alignment_losses


def test_a_prediction_that_points_where_its_target_does_costs_nothing_and_the_opposite_two() -> None:
    target = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    predictions = torch.stack([4.0 * target, -0.1 * target])
    torch.testing.assert_close(alignment_losses(predictions, [target, target]), torch.tensor([0.0, 2.0]))


def test_a_steady_prediction_may_have_a_target_of_any_length() -> None:
    direction = torch.tensor([1.0, 2.0, -1.0])
    targets = [direction.expand(length, 3) for length in (1, 7, 40)]
    assert alignment_losses(direction.expand(3, 10, 3), targets).abs().max() < 1e-6


def test_an_examples_loss_does_not_depend_on_its_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 6, width, generator=generator) for width in (3, 4)]
    targets = [[torch.randn(length, width, generator=generator) for length in (9, 14)] for width in (3, 4)]
    together = mean_alignment_losses(heads, targets)
    alone = [
        mean_alignment_losses([head[i : i + 1] for head in heads], [target[i : i + 1] for target in targets])
        for i in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_prediction_in_bfloat16_is_compared_in_float32() -> None:
    target = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    losses = alignment_losses(target.bfloat16().unsqueeze(0), [target])
    assert losses.dtype == torch.float32
    assert 0 < float(losses) < 1e-4


def test_targets_for_another_number_of_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        alignment_losses(torch.randn(2, 5, 3), [torch.randn(5, 3)])
