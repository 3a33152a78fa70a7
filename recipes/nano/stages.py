"""A plain training loop: AdamW under a cosine, averaged weights, stopped and gone on with at will."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from recipes.nano.checkpoints import WeightAverage, cosine_rate, load_state, save_state

ModuleT = TypeVar("ModuleT", bound=nn.Module)
WARMUP = 100
REPORT_EVERY, SAVE_EVERY = 100, 500


def train_stage(
    name: str,
    model: ModuleT,
    losses: Callable[[int], Mapping[str, tuple[float, Tensor]]],
    checkpoint: Path,
    *,
    steps: int,
    rate: float,
    betas: tuple[float, float] = (0.9, 0.99),
    max_norm: float = 1.0,
) -> ModuleT:
    """Minimise the weighted sum of `losses(step)`, each named with (weight, value), and return the averaged weights."""
    average = WeightAverage(model, 0.999)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=betas, weight_decay=1e-3)
    done = 0
    if (state := load_state(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, average.updates, done = state["average"], state["step"], state["step"]
    began, totals = time.time(), defaultdict(float)
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_rate(step, steps, warmup=WARMUP)
        parts = losses(step)
        optimizer.zero_grad()
        torch.stack([weight * value for weight, value in parts.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        average.update(model)
        for part, (_, value) in parts.items():
            totals[part] += value.item()
        if (step + 1) % REPORT_EVERY == 0:
            pace = (time.time() - began) / (step + 1 - done)
            told = ", ".join(f"{part} {total / REPORT_EVERY:.4f}" for part, total in totals.items())
            print(f"{name} {step + 1}/{steps}: {told}, {pace:.3f} s/step", flush=True)
            totals.clear()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.weights}
            save_state(checkpoint, **weights, step=step + 1)
    average.copy_to(model)
    return model.eval()
