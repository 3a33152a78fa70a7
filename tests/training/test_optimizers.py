import sys
from typing import get_args

import pytest
import torch
from torch import nn

from acestep.errors import CheckpointError, ConfigError
from acestep.training.config import OptimizerName
from acestep.training.optimizers import (
    PRODIGY_START,
    build_optimizer,
    estimated_rate,
    load_optimizer,
    optimizer_tensors,
    optimizer_values,
)

PACKAGES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def one_group(parameter: nn.Parameter, **settings: float) -> list[dict[str, object]]:
    return [{"params": [parameter], "lr": 0.01, "weight_decay": 0.1, **settings}]


@pytest.mark.parametrize("name", PACKAGES)
def test_an_absent_package_names_the_extra_that_brings_it(name: OptimizerName, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(ConfigError, match=r'pip install "acesteps\[optimizers\]"'):
        build_optimizer(name, one_group(nn.Parameter(torch.ones(2))))


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_each_goes_downhill_and_prints_nothing(name: OptimizerName, capfd: pytest.CaptureFixture[str]):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(70, 64))
    optimizer = build_optimizer(name, one_group(parameter, lr=1.0 if name == "prodigy" else 0.01, weight_decay=0.01))
    losses = []
    capfd.readouterr()
    for _ in range(100):
        loss = parameter.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert capfd.readouterr().out == ""


def test_eight_bit_state_is_a_quarter_of_adamws_and_follows_it():
    pytest.importorskip("bitsandbytes")
    start, state_bytes, ends = torch.randn(64, 256), {}, {}
    for name in ("adamw", "adamw_8bit"):
        parameter = nn.Parameter(start.clone())
        optimizer = build_optimizer(name, one_group(parameter))
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            parameter.grad = 0.3 * start + torch.randn(start.shape, generator=generator)
            optimizer.step()
        tensors = optimizer_tensors(optimizer, {"p": parameter})
        state_bytes[name] = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        ends[name] = (parameter.detach() - start).flatten()
    assert state_bytes["adamw_8bit"] < 0.27 * state_bytes["adamw"]
    assert torch.corrcoef(torch.stack([ends["adamw"], ends["adamw_8bit"]]))[0, 1] > 0.99


def test_prodigys_estimate_grows_from_nothing_and_is_what_it_reports():
    pytest.importorskip("prodigyopt")
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(100))
    optimizer = build_optimizer("prodigy", one_group(parameter, lr=1.0))
    assert estimated_rate(optimizer) == PRODIGY_START
    for _ in range(30):
        parameter.grad = parameter.detach().clone()
        optimizer.step()
    assert estimated_rate(optimizer) > 1e-3
    assert estimated_rate(build_optimizer("adamw", one_group(parameter))) == 1.0


def test_prodigy_refuses_two_rates():
    pytest.importorskip("prodigyopt")
    groups = one_group(nn.Parameter(torch.ones(2))) + one_group(nn.Parameter(torch.ones(2)), lr=0.16)
    with pytest.raises(ConfigError, match="set loraplus_lr_ratio to 1"):
        build_optimizer("prodigy", groups)


def test_state_of_another_size_or_parameter_is_refused_and_the_settings_stay_ones_own():
    large, small = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(2, 3))
    written = build_optimizer("adamw", one_group(large))
    large.grad = torch.ones(4, 3)
    written.step()
    tensors, values = optimizer_tensors(written, {"p": large}), optimizer_values(written, {"p": large})
    fresh = build_optimizer("adamw", one_group(small, lr=0.5))
    with pytest.raises(CheckpointError, match=r"exp_avg\w* of p is \(4, 3\), the parameter is \(2, 3\)"):
        load_optimizer(fresh, {"p": small}, tensors, values)
    with pytest.raises(CheckpointError, match="lacks: p"):
        load_optimizer(fresh, {"other": small}, tensors, values)
    assert not fresh.state
    again = build_optimizer("adamw", one_group(large, lr=0.5))
    load_optimizer(again, {"p": large}, tensors, values)
    assert again.param_groups[0]["lr"] == 0.5
    assert again.state[large]["exp_avg"].data_ptr() != tensors["p/exp_avg"].data_ptr()
