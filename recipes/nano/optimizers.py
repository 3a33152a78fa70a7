"""Muon for matrices, AdamW for the rest: about twice as far per step as AdamW alone on networks of this size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Matrices of one shape are handled as one stack, which on a CPU is much faster than one by one. Convolutions of one
    tap
    count as matrices.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            stacks: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape[0], parameter[0].numel()].append(parameter)
            for (rows, columns), members in stacks.items():
                updates = []
                for parameter in members:
                    average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                    average.lerp_(parameter.grad, 1 - group["momentum"])
                    updates.append(parameter.grad.lerp(average, group["momentum"]).reshape(rows, columns))
                size = group["lr"] * max(1, rows / columns) ** 0.5
                for parameter, update in zip(members, _shared_orthogonalise(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-size)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards U V^T of each matrix. (count, rows, columns) float32 -> the same"""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()


def _shared_orthogonalise(matrices: Tensor) -> Tensor:
    """As orthogonalise; where several processes train together each does its share and all get the whole."""
    if not dist.is_initialized():
        return orthogonalise(matrices)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    whole = torch.zeros_like(matrices)
    if len(matrices[mine]):
        whole[mine] = orthogonalise(matrices[mine])
    dist.all_reduce(whole)
    return whole
