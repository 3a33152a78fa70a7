"""The optimizer, its schedule, clipping and the running average of one adapter.

A step is `norm = clip()`, a look at whether the norm is a number, `step(number)`. The rate and the average's decay are
functions of the step's number, so the state to keep is the tensors and a few numbers of the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acestep.errors import CheckpointError, TrainingError
from acestep.training.averaging import RunningAverage
from acestep.training.config import LrSchedulerName, OptimizerName
from acestep.training.learning_rate import learning_rate_factor
from acestep.training.optimizers import (
    build_optimizer,
    estimated_rate,
    load_optimizer,
    optimizer_tensors,
    optimizer_values,
)

_PARAMETER, _OPTIMIZER, _AVERAGE = "parameter/", "optimizer/", "average/"


@dataclass(frozen=True)
class OptimizationSettings:
    """How an adapter learns. loraplus_lr_ratio: how much faster B learns than A; ema_decay: None keeps no average."""

    optimizer: OptimizerName
    learning_rate: float
    scheduler: LrSchedulerName
    warmup_steps: int
    total_steps: int
    weight_decay: float
    max_grad_norm: float
    loraplus_lr_ratio: float = 1.0
    ema_decay: float | None = None


def setting_warnings(settings: OptimizationSettings) -> list[str]:
    """What is allowed and most likely a mistake, a sentence each."""
    rate, found = settings.learning_rate, []
    if settings.optimizer == "prodigy" and rate < 0.1:
        found.append(f"prodigy finds its own rate and takes learning_rate as a factor on it: {rate:g} should be near 1")
    if settings.optimizer != "prodigy" and rate >= 0.1:
        found.append(f"a learning_rate of {rate:g} is prodigy's; {settings.optimizer} wants one near 1e-4")
    if settings.loraplus_lr_ratio * rate >= 0.1 > rate:
        ratio = settings.loraplus_lr_ratio
        found.append(f"with loraplus_lr_ratio {ratio:g} B learns at {ratio * rate:g}, which seldom goes well")
    return found


class Optimization:
    """Moves the parameters of one adapter; names are those of an adapter file (`lora/attach.py`).

    LoRA+ (Hayou et al. 2024, arXiv:2402.12354) is a group of its own for B. DoRA's magnitudes are not decayed: towards
    0 is no simpler for them. Raises ConfigError for an optimizer that is not installed.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: OptimizationSettings) -> None:
        self.settings = settings
        self._parameters = dict(parameters)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self._parameters.items():
            factor = settings.loraplus_lr_ratio if ".lora_B" in name else 1.0
            decay = 0.0 if ".lora_magnitude_vector" in name else settings.weight_decay
            groups.setdefault((factor, decay), []).append(parameter)
        self._factors = [factor for factor, _ in groups]
        self._optimizer = build_optimizer(
            settings.optimizer,
            [
                {"params": members, "lr": settings.learning_rate * factor, "weight_decay": decay}
                for (factor, decay), members in groups.items()
            ],
        )
        self._average = RunningAverage(self._parameters, settings.ema_decay) if settings.ema_decay is not None else None

    @torch.no_grad()
    def clip(self) -> float:
        """Scale the gradients down to max_grad_norm together -> their norm before; the one wait for the device."""
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self.settings.max_grad_norm, norm)
        return float(norm)

    def step(self, step: int) -> float:
        """The step numbered from 0: move, average, forget the gradients -> the rate that A moved at.

        With Prodigy that is its estimate times the schedule's.
        """
        self._require_raw()
        rate = self.settings.learning_rate * learning_rate_factor(
            step,
            total_steps=self.settings.total_steps,
            warmup_steps=self.settings.warmup_steps,
            scheduler=self.settings.scheduler,
        )
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        moved_at = rate * estimated_rate(self._optimizer)
        self._optimizer.step()
        self.forget_gradients()
        if self._average is not None:
            self._average.update(step)
        return moved_at

    def forget_gradients(self) -> None:
        """Drop what was accumulated, for a step that is given up or tried again."""
        self._optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the parameters are their running average, after it to the bit what they were.

        Blocks may nest. Without an average nothing happens. Costs a copy of the parameters for as long.
        """
        with self._average.applied() if self._average is not None else nullcontext():
            yield

    def tensors(self) -> dict[str, Tensor]:
        """The parameters, the optimizer's state and the averages, by name: all that the next step depends on.

        Live tensors, not copies: write them before the next step. Inside `averaged` the parameters are still the raw
        ones.
        """
        average = self._average
        raw = average.raw() if average else {name: tensor.detach() for name, tensor in self._parameters.items()}
        state = optimizer_tensors(self._optimizer, self._parameters)
        return (
            {_PARAMETER + name: tensor for name, tensor in raw.items()}
            | {_OPTIMIZER + key: tensor for key, tensor in state.items()}
            | {_AVERAGE + name: tensor for name, tensor in (average.tensors() if average else {}).items()}
        )

    def values(self) -> dict[str, Any]:
        """The numbers that go with `tensors`, for JSON."""
        return {"optimizer": self.settings.optimizer, **optimizer_values(self._optimizer, self._parameters)}

    def load(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where `tensors` and `values` were taken, on whatever device they come.

        CheckpointError, with nothing changed, where they are of another adapter, optimizer or kind of average.
        """
        self._require_raw()
        if values.get("optimizer") != self.settings.optimizer:
            raise CheckpointError(
                f"the checkpoint was written by optimizer {values.get('optimizer')}, this run has"
                f" {self.settings.optimizer}; go on with the optimizer it began with"
            )
        saved, averages = _below(tensors, _PARAMETER), _below(tensors, _AVERAGE)
        if bool(averages) != (self._average is not None):
            was, now = ("with", "without") if averages else ("without", "with")
            raise CheckpointError(f"the checkpoint was written {was} ema_decay, this run is {now} it; set it as it was")
        _require_same("parameters", saved, self._parameters)
        if averages:
            _require_same("averages", averages, self._parameters)
        try:
            load_optimizer(self._optimizer, self._parameters, _below(tensors, _OPTIMIZER), values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the saved optimizer state is incomplete or damaged: {error!r}") from error
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(saved[name])
        if self._average is not None:
            self._average.load(averages)
        self.forget_gradients()

    def _require_raw(self) -> None:
        if self._average is not None and self._average.is_applied:
            raise TrainingError("the parameters are their running average now; step and load outside of averaged()")


def _require_same(what: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if differing := sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name)):
        first = differing[0]
        raise CheckpointError(
            f"the saved {what} are not this adapter's: {len(differing)} differ; {first} is {shapes.get(first)} there"
            f" and {wanted.get(first)} here"
        )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
