from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from acestep.models.v1.lyric_encoder import relative_positions
from acestep.models.v1.rotary import rotary_tables
from acestep.training.planning.footprint import count_step, resident_bytes
from acestep.training.planning.live_memory import LiveMemory
from acestep.training.planning.step_run import material, prepared, run_micro_batch
from acestep.training.planning.step_settings import StepSettings
from small_family import SmallFamily
from small_step import settings_for


def measured_peak(family: SmallFamily, settings: StepSettings) -> int:
    """What is alive at most in a second micro-batch that is really computed."""
    rotary_tables.cache_clear()
    relative_positions.cache_clear()
    example = family.encode_prompt(["a b"], [""])
    with prepared(family, settings):
        run = material(example, settings, family.device)
        if settings.accumulation > 1:
            run_micro_batch(family, settings, run)
            rotary_tables.cache_clear()
            relative_positions.cache_clear()
        live = LiveMemory()
        live.overlook(family.network.parameters())
        live.hold([run[0], *run[1].tensors().values()])
        live.hold(p.grad for p in family.network.parameters() if p.grad is not None)
        with live:
            run_micro_batch(family, settings, run)
    return live.peak_bytes


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gradient_checkpointing": False},
        {"batch_size": 3, "gradient_checkpointing": False},
        {"autocast": torch.bfloat16},
        {"accumulation": 2},
        {"adapter": {"alpha": 4.0, "dora": True}},
    ],
    ids=str,
)
def test_the_count_is_what_is_alive_in_a_real_step(values: dict[str, Any]):
    family = SmallFamily()
    settings = settings_for(family, **values)
    found = count_step(family, settings, family.encode_prompt(["a b"], [""]))
    assert found.activations + found.gradients == measured_peak(family, settings)


def test_counting_changes_no_bit_of_the_family_and_no_random_number():
    family = SmallFamily()
    settings = settings_for(family)
    state = {name: tensor.clone() for name, tensor in family.network.state_dict().items()}
    modules, marks = dict(family.network.named_modules()), [p.requires_grad for p in family.network.parameters()]
    random = torch.get_rng_state()
    family.network.gradient_checkpointing = False
    count_step(family, settings, family.encode_prompt(["a b"], [""]))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in family.network.state_dict().items())
    assert dict(family.network.named_modules()) == modules
    assert [p.requires_grad for p in family.network.parameters()] == marks
    assert family.network.gradient_checkpointing is False


def test_the_family_computes_after_a_count_as_before_it():
    family = SmallFamily()
    conditioning = family.encode_prompt(["a b"], ["la"])
    latents, sigmas = torch.randn(1, 8, 16, 64), torch.tensor([0.5])
    with torch.no_grad():
        before = family.velocity(latents, sigmas, conditioning)
        count_step(family, settings_for(family), conditioning)
        after = family.velocity(latents, sigmas, conditioning)
    assert type(after) is torch.Tensor
    assert torch.equal(before, after)


def test_the_adapter_and_its_optimizer_are_counted_to_the_byte():
    family = SmallFamily()
    settings = settings_for(family)
    with prepared(family, settings) as adapter:
        numbers = sum(parameter.numel() for parameter in adapter.parameters().values())
    found = count_step(family, settings, family.encode_prompt(["a b"], [""]))
    assert found.trainable == numbers
    assert (found.adapter, found.gradients, found.optimizer) == (4 * numbers, 4 * numbers, 8 * numbers)
    assert found.base == resident_bytes(family) == sum(p.nbytes for p in family.network.parameters())
    prodigy = replace(settings, optimization=replace(settings.optimization, optimizer="prodigy", ema_decay=0.9))
    found = count_step(family, prodigy, family.encode_prompt(["a b"], [""]))
    assert (found.optimizer, found.average) == (16 * numbers, 4 * numbers)


def test_activations_grow_with_frames_and_batch_and_shrink_with_checkpointing():
    family = SmallFamily()
    example = family.encode_prompt(["a b"], [""])

    def activations(**values: Any) -> int:
        return count_step(family, settings_for(family, **values), example).activations

    plain = activations(frames=256, gradient_checkpointing=False)
    assert activations(frames=512, gradient_checkpointing=False) == pytest.approx(2 * plain, rel=0.1)
    assert activations(frames=256, batch_size=2, gradient_checkpointing=False) == pytest.approx(2 * plain, rel=0.1)
    assert activations(frames=256) < 0.8 * plain
