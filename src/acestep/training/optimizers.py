"""The optimizers that a run can ask for, and their state as plain tensors and numbers.

AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), torch's fused kernel where the device has one: one pass over the
numbers, its bits the same for any number of threads, up to a last place off torch's unfused ones.
AdamW with 8-bit moments (Dettmers et al. 2021, arXiv:2110.02861), by bitsandbytes, which needs no compiler at run time:
2 bytes of state a number where AdamW has 8.
Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101), by prodigyopt: finds the rate by itself, for 16 bytes of state.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from acestep.errors import CheckpointError, ConfigError
from acestep.training.config import OptimizerName

# The released trainer's; a short memory suits a loss whose size depends on the level that was drawn.
ADAM_BETAS = (0.8, 0.9)
ADAM_EPS = 1e-8

# The rate that Prodigy's search begins at; it only ever goes up.
PRODIGY_START = 1e-5

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}

# bitsandbytes keeps the same two tables of 256 values at every parameter; they are constants, not state.
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}

# What a parameter's state holds as large as the parameter. Kernels trust these sizes, so a file's are checked.
_AS_LARGE = frozenset({"exp_avg", "exp_avg_sq", "state1", "state2", "s"})

# Numbers that Prodigy keeps for all parameters together; the others in its groups are settings, or made anew each step.
_LEARNED = ("d", "d_max", "d_numerator", "k")

Groups = Sequence[dict[str, Any]]
"""As torch takes them: `params`, `lr` and `weight_decay` of each."""


def build_optimizer(name: OptimizerName, groups: Groups) -> torch.optim.Optimizer:
    """ConfigError where it needs a package that is not there, or cannot do what the groups ask for."""
    builders: dict[OptimizerName, Callable[[Groups], torch.optim.Optimizer]] = {
        "adamw": _adamw,
        "adamw_8bit": _adamw_8bit,
        "prodigy": _prodigy,
    }
    return builders[name](groups)


def estimated_rate(optimizer: torch.optim.Optimizer) -> float:
    """What the optimizer itself multiplies rates by at the next step: Prodigy's estimate, 1 for the others."""
    return float(optimizer.param_groups[0].get("d", 1.0))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """State by `<parameter's name>/<part>`: the live tensors, on whatever device they are."""
    return {
        f"{name}/{part}": value.detach()
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor) and part not in _TABLES
    }


def optimizer_values(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """What the state holds besides tensors, as JSON can hold it: of all parameters together, and of each."""
    own = {
        name: {part: value for part, value in optimizer.state[parameter].items() if not isinstance(value, Tensor)}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }
    group = optimizer.param_groups[0]
    return {
        "all": {part: group[part] for part in _LEARNED if part in group},
        "each": {name: values for name, values in own.items() if values},
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Put back what `optimizer_tensors` and `optimizer_values` gave, copied, on each parameter's device.

    Rates, decay and the like stay this optimizer's own. CheckpointError, nothing changed, where it does not fit.
    """
    states: dict[str, dict[str, Any]] = {name: dict(own) for name, own in values["each"].items()}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        states.setdefault(name, {})[part] = tensor
    if unknown := sorted(states.keys() - parameters.keys()):
        raise CheckpointError(f"the saved optimizer knows parameters that this adapter lacks: {', '.join(unknown[:5])}")
    for name, state in states.items():
        _require_fit(name, state, parameters[name])
    learned = {part: values["all"][part] for part in _LEARNED if part in optimizer.param_groups[0]}
    names = {parameter: name for name, parameter in parameters.items()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    loaded = optimizer.state_dict()
    loaded["state"] = {
        index: _on_device(states[name], parameters[name], optimizer)
        for index, name in enumerate(ordered)
        if name in states
    }
    for group in loaded["param_groups"]:
        group.update(learned)
    optimizer.load_state_dict(loaded)


def _adamw(groups: Groups) -> torch.optim.Optimizer:
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = True if devices <= _FUSED_DEVICES else None
    return torch.optim.AdamW(list(groups), betas=ADAM_BETAS, eps=ADAM_EPS, fused=fused)


def _adamw_8bit(groups: Groups) -> torch.optim.Optimizer:
    # On some processors its import warns that a kernel for 4-bit products is missing, which no optimizer needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    package = _import("bitsandbytes", optimizer="adamw_8bit", extra="optimizers")
    optimizer: torch.optim.Optimizer = package.optim.AdamW8bit(list(groups), betas=ADAM_BETAS, eps=ADAM_EPS)
    return optimizer


def _prodigy(groups: Groups) -> torch.optim.Optimizer:
    package = _import("prodigyopt", optimizer="prodigy", extra="optimizers")
    if len({group["lr"] for group in groups}) > 1:
        raise ConfigError("prodigy finds one rate for all parameters; set loraplus_lr_ratio to 1, or use adamw")
    # The safeguard is for runs with a warmup. Its authors advise bias correction too: on a noisy low-rank least-squares
    # problem with our warmup that took 1.5 to 3 times as many steps to find the rate, of which a short run has none to
    # spare. No LoRA wants less than 1e-5. The groups bring their decay; given here as well, it would be printed.
    optimizer: torch.optim.Optimizer = package.Prodigy(list(groups), safeguard_warmup=True, d0=PRODIGY_START)
    return optimizer


def _import(package: str, *, optimizer: OptimizerName, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"optimizer {optimizer} needs {package}, which cannot be imported ({error}):"
            f' pip install "acesteps[{extra}]", or use adamw'
        ) from error


def _require_fit(name: str, state: Mapping[str, Any], parameter: nn.Parameter) -> None:
    for part in state.keys() & _AS_LARGE:
        if math.prod(state[part].shape) != parameter.numel():
            raise CheckpointError(
                f"the saved optimizer's {part} of {name} is {tuple(state[part].shape)}, the parameter is"
                f" {tuple(parameter.shape)}"
            )


def _on_device(state: Mapping[str, Any], parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    # Unfused AdamW counts its steps on the CPU; fused, torch moves them itself.
    moved = {
        part: value.to("cpu" if part == "step" else parameter.device, copy=True) if isinstance(value, Tensor) else value
        for part, value in state.items()
    }
    if "absmax1" in state:
        tables: Mapping[str, Tensor] = optimizer.name2qmap  # type: ignore[attr-defined]
        moved |= {part: tables[table].to(parameter.device) for part, table in _TABLES.items()}
    return moved
