"""What a training step holds in memory, counted without allocating it.

The step is run on the family's shadow (`shadow.py`), and what is alive is counted (`live_memory.py`); the optimizer's
state follows from how many bytes it keeps for a number that learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acestep.families.base import Conditioning, Family
from acestep.models.quantization import quantization_of, quantize_network
from acestep.training.config import OptimizerName
from acestep.training.planning.live_memory import LiveMemory
from acestep.training.planning.shadow import shadow_numbers, shadow_of
from acestep.training.planning.step_run import material, prepared, run_micro_batch
from acestep.training.planning.step_settings import StepSettings

STATE_BYTES: dict[OptimizerName, float] = {"adamw": 8.0, "adamw_8bit": 2.0 + 8 / 256, "prodigy": 16.0}
"""That an optimizer keeps for each number; 8-bit moments have a float32 scale for 256 of them each."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device while a step runs. base: all that the family keeps there, its encoders too; activations: the
    most that a forward and a backward pass need besides; where all gradients are not yet there then, less that part."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    trainable: int
    """Numbers that learn."""

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.gradients + self.optimizer + self.average + self.activations


def count_step(family: Family, settings: StepSettings, example: Conditioning) -> Footprint:
    """The footprint of a step on `family`, which is only looked at. Takes one to some seconds of one core.

    Quantisation is applied to the count where the family has not got it yet.
    """
    shadow, device = shadow_of(family), _counted_device(family.device)
    others = sum(_bytes_on(family.device, tensors) for tensors in _tensors_besides(family, family.network))
    tokens = 1 + settings.text_tokens + settings.lyric_tokens
    with torch.enable_grad(), shadow_numbers(shadow, device, answer=tokens):
        if settings.quantization is not None and quantization_of(family.network) is None:
            quantize_network(shadow.network, settings.quantization)
        base = _network_bytes(shadow)
        with prepared(shadow, settings) as adapter:
            learning = list(adapter.parameters().values())
            fixed = _network_bytes(shadow) - base
            given = material(example, settings, device)
            live = LiveMemory()
            live.overlook([*shadow.network.parameters(), *shadow.network.buffers()])
            live.hold([given[0], *given[1].tensors().values()])
            if settings.accumulation > 1:
                # From the second micro-batch on the gradients of those before are there.
                for parameter in learning:
                    parameter.grad = torch.zeros_like(parameter)
                    live.hold([parameter.grad])
            with live:
                run_micro_batch(shadow, settings, given)
    trainable = sum(parameter.numel() for parameter in learning)
    gradients = 4 * trainable
    return Footprint(
        base=base + others,
        adapter=fixed,
        gradients=gradients,
        optimizer=round(STATE_BYTES[settings.optimization.optimizer] * trainable),
        average=4 * trainable if settings.optimization.ema_decay is not None else 0,
        activations=max(live.peak_bytes - gradients, 0),
        trainable=trainable,
    )


def resident_bytes(family: Family) -> int:
    """What the family keeps on its device: the network and whatever encodes and decodes."""
    return _network_bytes(family) + sum(
        _bytes_on(family.device, tensors) for tensors in _tensors_besides(family, family.network)
    )


def _counted_device(device: torch.device) -> torch.device:
    # Others cannot be pretended to where they are not; what a step keeps alive is nearly the same.
    return device if device.type == "cuda" else torch.device("cpu")


def _tensors_besides(family: Family, network: nn.Module) -> Iterator[list[Tensor]]:
    """Tensors of the modules that hang on the family, directly or one object down."""
    for value in vars(family).values():
        inner = getattr(value, "module", None)
        module = value if isinstance(value, nn.Module) else inner
        if isinstance(module, nn.Module) and module is not network:
            yield [*module.parameters(), *module.buffers()]


def _network_bytes(family: Family) -> int:
    return _sum_bytes([*family.network.parameters(), *family.network.buffers()])


def _sum_bytes(tensors: list[Tensor]) -> int:
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


def _bytes_on(device: torch.device, tensors: list[Tensor]) -> int:
    return _sum_bytes([tensor for tensor in tensors if tensor.device == device])
