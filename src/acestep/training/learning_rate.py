"""The learning rate over a run, as a factor on the one that was asked for."""

from __future__ import annotations

import math

from acestep.training.config import LrSchedulerName


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, scheduler: LrSchedulerName) -> float:
    """For the step numbered from 0: a straight rise to 1 over the warmup, then down to 0 after the last step, and 0 on.

    Cosine as in Loshchilov and Hutter 2016 (arXiv:1608.03983) without restarts. The first step is at 1 / (warmup + 1):
    a step at 0, as released, is a step wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if scheduler == "constant":
        return 1.0
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return 1 - done if scheduler == "linear" else (1 + math.cos(math.pi * done)) / 2
