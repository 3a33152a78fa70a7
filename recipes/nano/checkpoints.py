"""Stopping and going on: a stage's state, written whole or not at all, and an average of its weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def save_state(path: Path, **state: Any) -> None:
    """Tensors and plain values only; a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state saved last, or None where there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def cosine_rate(step: int, steps: int, *, warmup: int, floor: float = 0.02) -> float:
    """Share of the peak learning rate: linear up over `warmup`, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class WeightAverage:
    """Exponential moving average of a module's parameters, warmed up so that early averages are not mostly noise."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        names, values = zip(*((name, value.detach()) for name, value in module.named_parameters()), strict=True)
        torch._foreach_lerp_([self.weights[name] for name in names], list(values), 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        module.load_state_dict(self.weights, strict=False)


def load_weights(module: ModuleT, path: Path) -> ModuleT:
    """The averaged weights of a stage's checkpoint, in eval mode."""
    state = load_state(path)
    if state is None:
        raise SystemExit(f"{path} is missing; run the stage that makes it first")
    module.load_state_dict(state["model"])
    module.load_state_dict(state["average"], strict=False)
    return module.eval()
