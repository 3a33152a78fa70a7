from __future__ import annotations

import itertools

import pytest
import torch

from acestep.training.planning.probe import is_out_of_memory, probe_codec, probe_step
from small_family import SmallFamily
from small_step import settings_for


def ticking() -> itertools.count[int]:
    return itertools.count()


def test_a_probe_leaves_the_family_and_the_random_numbers_as_they_were():
    family = SmallFamily()
    state = {name: tensor.clone() for name, tensor in family.network.state_dict().items()}
    modules = dict(family.network.named_modules())
    marks = [(p.requires_grad, p.grad) for p in family.network.parameters()]
    random = torch.get_rng_state()
    result = probe_step(family, settings_for(family), family.encode_prompt(["a b"], [""]))
    assert result.fits
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in family.network.state_dict().items())
    assert dict(family.network.named_modules()) == modules
    assert [(p.requires_grad, p.grad) for p in family.network.parameters()] == marks


def test_a_step_is_its_micro_batches_and_the_update():
    family = SmallFamily()
    ticks = ticking()
    settings = settings_for(family, accumulation=4)
    result = probe_step(family, settings, family.encode_prompt(["a b"], [""]), clock=lambda: float(next(ticks)))
    assert (result.micro_batch_s, result.update_s, result.step_s) == (1, 1, 5)
    assert result.memory_bytes > 0


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])  # fmt: skip
def test_running_out_of_memory_is_an_answer(error: Exception, monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    modules = dict(family.network.named_modules())

    def fail(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(family, "velocity", fail)
    result = probe_step(family, settings_for(family), family.encode_prompt(["a b"], [""]))
    assert not result.fits
    assert dict(family.network.named_modules()) == modules


def test_another_error_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    monkeypatch.setattr(family, "velocity", lambda *_: torch.zeros(1, 2) @ torch.zeros(3, 1))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        probe_step(family, settings_for(family), family.encode_prompt(["a b"], [""]))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_family_that_cannot_decode_has_no_pace_for_it():
    pace = probe_codec(SmallFamily())
    assert pace.decode is None
    assert pace.encode is not None
