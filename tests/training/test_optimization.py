import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acestep.errors import CheckpointError, TrainingError
from acestep.training.config import OptimizerName
from acestep.training.learning_rate import learning_rate_factor
from acestep.training.optimization import Optimization, OptimizationSettings, setting_warnings

PACKAGES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
SETTINGS = OptimizationSettings(
    optimizer="adamw",
    learning_rate=1e-2,
    scheduler="cosine",
    warmup_steps=3,
    total_steps=20,
    weight_decay=0.1,
    max_grad_norm=1.0,
)
# Above 4096 numbers and below: bitsandbytes keeps the small one in float32.
SHAPES = {
    "transformer_blocks.0.attn.to_q.lora_A.weight": (16, 300),
    "transformer_blocks.0.attn.to_q.lora_B.weight": (300, 16),
    "transformer_blocks.0.attn.to_q.lora_magnitude_vector": (300,),
    "transformer_blocks.0.ff.inverted_conv.conv.lora_A.weight": (4, 10, 1),
}


def settings_for(name: OptimizerName, **others: Any) -> OptimizationSettings:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return replace(SETTINGS, optimizer=name, learning_rate=1.0 if name == "prodigy" else 1e-2, **others)


def adapter() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = {name: nn.Parameter(0.1 * torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    nn.init.zeros_(made["transformer_blocks.0.attn.to_q.lora_B.weight"])
    return made


def set_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters.values():
        parameter.grad = parameter.detach() - 1 + torch.randn(parameter.shape, generator=generator)


def go(optimization: Optimization, parameters: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(parameters, step)
        assert math.isfinite(optimization.clip())
        optimization.step(step)


def through_files(optimization: Optimization, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    save_file({name: tensor.contiguous() for name, tensor in optimization.tensors().items()}, folder / "state")
    (folder / "values").write_text(json.dumps(optimization.values()))
    return load_file(folder / "state"), json.loads((folder / "values").read_text())


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_is_to_the_bit_the_uninterrupted_one(
    name: OptimizerName, ema_decay: float | None, tmp_path: Path
):
    settings = settings_for(name, ema_decay=ema_decay, loraplus_lr_ratio=1.0 if name == "prodigy" else 4.0)
    straight, begun, resumed = adapter(), adapter(), {name: nn.Parameter(p + 1) for name, p in adapter().items()}
    first = Optimization(straight, settings)
    go(first, straight, range(11))

    stopped = Optimization(begun, settings)
    go(stopped, begun, range(6))
    fresh = Optimization(resumed, settings)
    fresh.load(*through_files(stopped, tmp_path))
    go(fresh, resumed, range(6, 11))

    expected, found = first.tensors(), fresh.tensors()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert first.values() == fresh.values()
    with first.averaged(), fresh.averaged():
        assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    # And the comparison can fail: five more steps did move everything.
    assert not any(torch.equal(straight[name], begun[name]) for name in straight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_taken_before_the_first_step_resumes_too(name: OptimizerName, tmp_path: Path):
    settings = settings_for(name, ema_decay=0.9)
    straight, resumed = adapter(), adapter()
    first, fresh = Optimization(straight, settings), Optimization(resumed, settings)
    fresh.load(*through_files(first, tmp_path))
    for optimization, parameters in ((first, straight), (fresh, resumed)):
        go(optimization, parameters, range(2))
    assert all(torch.equal(first.tensors()[name], fresh.tensors()[name]) for name in first.tensors())


def test_the_released_settings_are_torchs_adamw_written_out_in_plain_loops():
    ours, theirs = adapter(), adapter()
    optimization = Optimization(ours, SETTINGS)
    decayed = [parameter for name, parameter in theirs.items() if "magnitude" not in name]
    magnitudes = [parameter for name, parameter in theirs.items() if "magnitude" in name]
    plain = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": magnitudes, "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.8, 0.9),
        eps=1e-8,
        foreach=False,
        fused=False,
    )
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        total = math.sqrt(sum(float(parameter.grad.double().square().sum()) for parameter in theirs.values()))
        assert optimization.clip() == pytest.approx(total, rel=1e-5)
        for parameter in theirs.values():
            parameter.grad *= min(1.0, 1.0 / total)
        rate = 1e-2 * learning_rate_factor(step, total_steps=20, warmup_steps=3, scheduler="cosine")
        for group in plain.param_groups:
            group["lr"] = rate
        assert optimization.step(step) == rate
        plain.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


def test_gradients_below_the_limit_are_left_alone_and_above_it_keep_their_direction():
    parameters = adapter()
    optimization = Optimization(parameters, replace(SETTINGS, max_grad_norm=1e6))
    set_gradients(parameters, 0)
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    norm = optimization.clip()
    assert all(torch.equal(parameters[name].grad, before[name]) for name in parameters)
    Optimization(parameters, replace(SETTINGS, max_grad_norm=0.5)).clip()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, before[name] * 0.5 / norm, rtol=1e-5, atol=1e-9)


def test_lora_plus_moves_b_by_the_ratio_and_nothing_else():
    moved: dict[float, dict[str, Tensor]] = {}
    for ratio in (1.0, 16.0):
        parameters = adapter()
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        settings = replace(SETTINGS, loraplus_lr_ratio=ratio, weight_decay=0.0)
        go(Optimization(parameters, settings), parameters, range(1))
        moved[ratio] = {name: parameter.detach() - before[name] for name, parameter in parameters.items()}
    for name in SHAPES:
        factor = 16.0 if "lora_B" in name else 1.0
        torch.testing.assert_close(moved[16.0][name], factor * moved[1.0][name], rtol=1e-4, atol=1e-7)


def test_decay_shrinks_the_factors_and_not_the_magnitudes():
    parameters = adapter()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimization = Optimization(parameters, replace(SETTINGS, warmup_steps=0, learning_rate=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimization.clip()
    optimization.step(0)
    for name, parameter in parameters.items():
        expected = before[name] if "magnitude" in name else before[name] * (1 - 0.5 * 0.1)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_no_number_is_seen_before_it_changes_anything(name: OptimizerName):
    parameters = adapter()
    optimization = Optimization(parameters, settings_for(name, ema_decay=0.9))
    go(optimization, parameters, range(2))
    before = {key: tensor.clone() for key, tensor in optimization.tensors().items()}
    values = optimization.values()
    set_gradients(parameters, 2)
    next(iter(parameters.values())).grad[0, 0] = float("nan")
    assert math.isnan(optimization.clip())
    optimization.forget_gradients()
    assert all(parameter.grad is None for parameter in parameters.values())
    assert all(torch.equal(before[key], tensor) for key, tensor in optimization.tensors().items())
    assert optimization.values() == values


def test_a_parameter_that_no_loss_reaches_stays_and_resumes(tmp_path: Path):
    parameters, name = adapter(), "transformer_blocks.0.attn.to_q.lora_A.weight"
    optimization = Optimization(parameters, replace(SETTINGS, ema_decay=0.9))
    set_gradients(parameters, 0)
    parameters[name].grad = None
    before = parameters[name].detach().clone()
    optimization.clip()
    optimization.step(0)
    assert torch.equal(parameters[name], before)
    again = adapter()
    Optimization(again, replace(SETTINGS, ema_decay=0.9)).load(*through_files(optimization, tmp_path))
    assert all(torch.equal(again[key], parameters[key]) for key in again)


def test_what_is_saved_under_the_average_is_the_raw_state(tmp_path: Path):
    parameters = adapter()
    optimization = Optimization(parameters, replace(SETTINGS, ema_decay=0.9))
    go(optimization, parameters, range(4))
    outside = {key: tensor.clone() for key, tensor in optimization.tensors().items()}
    with optimization.averaged():
        inside, _ = through_files(optimization, tmp_path)
        assert all(torch.equal(parameters[name], outside[f"average/{name}"]) for name in parameters)
        with pytest.raises(TrainingError, match="outside of averaged"):
            optimization.step(4)
    assert all(torch.equal(inside[key], outside[key]) for key in outside)


def test_without_an_average_the_block_changes_nothing():
    parameters = adapter()
    optimization = Optimization(parameters, SETTINGS)
    go(optimization, parameters, range(2))
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with optimization.averaged():
        assert all(torch.equal(parameters[name], before[name]) for name in before)
        optimization.step(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "other"}, "written by optimizer other, this run has adamw"),
        ({"ema_decay": None}, "written with ema_decay, this run is without it"),
        ({"drop": "parameter/"}, "the saved parameters are not this adapter's: 4 differ"),
        ({"reshape": "parameter/"}, r"lora_A.weight is \(4800,\) there and \(16, 300\) here"),
        ({"reshape": "average/"}, "the saved averages are not"),
        ({"values": {"optimizer": "adamw"}}, "incomplete or damaged"),
        ({"values": {"optimizer": "adamw", "all": {}, "each": 3}}, "incomplete or damaged"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change: dict[str, Any], message: str, tmp_path: Path):
    written, parameters = adapter(), {name: nn.Parameter(p + 1) for name, p in adapter().items()}
    optimization = Optimization(written, replace(SETTINGS, ema_decay=0.9))
    go(optimization, written, range(2))
    tensors, values = through_files(optimization, tmp_path)
    settings = replace(SETTINGS, ema_decay=change.get("ema_decay", 0.9))
    values = change.get("values", values)
    if "optimizer" in change:
        values["optimizer"] = change["optimizer"]
    if "drop" in change:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(change["drop"])}
    if "reshape" in change:
        key = change["reshape"] + next(iter(SHAPES))
        tensors[key] = tensors[key].flatten()
    fresh = Optimization(parameters, settings)
    before = {key: tensor.clone() for key, tensor in fresh.tensors().items()}
    with pytest.raises(CheckpointError, match=message):
        fresh.load(tensors, values)
    assert before.keys() == fresh.tensors().keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in fresh.tensors().items())


def test_rates_of_another_optimizers_kind_are_warned_about():
    assert setting_warnings(SETTINGS) == []
    assert setting_warnings(replace(SETTINGS, optimizer="prodigy", learning_rate=1.0)) == []
    assert "near 1" in setting_warnings(replace(SETTINGS, optimizer="prodigy", learning_rate=1e-4))[0]
    assert "near 1e-4" in setting_warnings(replace(SETTINGS, learning_rate=1.0))[0]
    assert "B learns at 0.16" in setting_warnings(replace(SETTINGS, loraplus_lr_ratio=16))[0]
