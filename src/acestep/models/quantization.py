"""Frozen weights in 8 or 4 bits: what a base model weighs while an adapter is trained on it.

int8 keeps one scale an output channel; nf4 is QLoRA's 4-bit type with one scale for 64 numbers (Dettmers et al. 2023,
arXiv:2305.14314, section 3), 4.25 bits a number. A layer computes with the weight made anew, forward and backward, and
keeps none of it: the cost is one pass over the weight each time.

torchao 0.18 and bitsandbytes 0.50 quantise `nn.Linear` alone, while almost half of a v1 block is convolutions of one
frame, and each changes what a layer's `weight` is; this serves both layers, on every device, with torch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import CheckpointError, InputError

Quantization = Literal["int8", "nf4"]

BLOCK = 64
"""Numbers that share a scale in nf4."""
SMALLEST = 4096
"""Numbers that a weight must have to be worth it."""

_INT8_LEVELS = 127
# QLoRA's code reaches for this quantile so that the two outermost levels have the same tails as the inner ones.
_OUTERMOST_QUANTILE = 0.9677083


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers and scales.

    int8: codes as the weight, int8 in [-127, 127]; scales (out, 1, ..). nf4: codes (numbers / 2,) uint8, the first of
    two numbers in the high half; scales (numbers / 64, 1). Scales are positive and exact in bfloat16.
    """

    codes: Tensor
    scales: Tensor
    shape: torch.Size

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """codes * scales, int8; level(codes) * scales, nf4 -> the weight's shape"""
        scales = self.scales.to(dtype)
        if self.codes.dtype == torch.int8:
            values: Tensor = self.codes * scales
        else:
            pairs = _pairs_of_levels(dtype, self.codes.device).index_select(0, self.codes.int())
            values = (pairs.view(dtype).view(-1, BLOCK) * scales).view(self.shape)
        return values


def quantize_int8(weight: Tensor) -> QuantizedWeight:
    """Rounded to 255 steps between -max and max of each output channel. weight: (out, ..) floating"""
    values = weight.detach().float()
    scales = _storable(values.flatten(1).abs().amax(dim=1) / _INT8_LEVELS, weight.dtype)
    scales = scales.view(-1, *(1 for _ in weight.shape[1:]))
    codes = (values / scales.float()).round_().clamp_(-_INT8_LEVELS, _INT8_LEVELS).to(torch.int8)
    return QuantizedWeight(codes, scales, weight.shape)


def quantize_nf4(weight: Tensor) -> QuantizedWeight:
    """The nearest of 16 levels, for each 64 numbers in a row between -max and max. weight: a multiple of 64 numbers"""
    blocks = weight.detach().float().reshape(-1, BLOCK)
    scales = _storable(blocks.abs().amax(dim=1, keepdim=True), weight.dtype)
    levels = nf4_levels().to(weight.device, torch.float32)
    nearest = torch.bucketize(blocks / scales.float(), (levels[1:] + levels[:-1]) / 2, out_int32=True)
    high, low = nearest.to(torch.uint8).view(-1, 2).unbind(1)
    return QuantizedWeight(high * 16 + low, scales, weight.shape)


def nf4_levels() -> Tensor:
    """(16,) float64 from -1 to 1: quantiles of the normal distribution, 0 among them (QLoRA, section 3, appendix E)."""
    positive, negative = (
        torch.special.ndtri(torch.linspace(_OUTERMOST_QUANTILE, 0.5, count, dtype=torch.float64)[:-1])
        for count in (9, 8)
    )
    levels: Tensor = torch.cat([-negative, positive.new_zeros(1), positive.flip(0)]) / positive[0]
    return levels


QUANTIZERS: dict[Quantization, Callable[[Tensor], QuantizedWeight]] = {"int8": quantize_int8, "nf4": quantize_nf4}


class _Quantized(nn.Module):
    """A layer whose weight is two buffers, so that moving, saving and sharing it is that of any module.

    It stands in for the layer that it was made from: the same class, sizes and bias.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None
    weight_shape: torch.Size

    @classmethod
    def of(cls, layer: nn.Module, quantized: QuantizedWeight) -> Any:
        made = cls.__new__(cls)
        buffers = {"codes": quantized.codes, "scales": quantized.scales}
        bias = {"bias": layer._parameters["bias"]}
        made.__dict__.update({**layer.__dict__, "_parameters": bias, "_buffers": buffers})
        made.weight_shape = quantized.shape
        return made

    @property
    def weight(self) -> nn.Parameter:
        """Made anew at each look: for those that merge, measure or compare. `weight_shape` costs nothing."""
        return nn.Parameter(self._quantized().dequantize(self.scales.dtype), requires_grad=False)

    def _quantized(self) -> QuantizedWeight:
        return QuantizedWeight(self.codes, self.scales, self.weight_shape)

    def _linear(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), in autocast's dtype where it acts and in that of x elsewhere."""
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        product: Tensor = _Product.apply(x, self.codes, self.scales, self.bias, self.weight_shape)  # type: ignore[no-untyped-call]
        return product


class QuantizedLinear(_Quantized, nn.Linear):  # type: ignore[misc]
    """nn.Linear over a quantised weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)"""
        return self._linear(x)


class QuantizedPointwiseConv1d(_Quantized, nn.Conv1d):  # type: ignore[misc]
    """A convolution of one frame over a quantised weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames)"""
        return self._linear(x.transpose(1, 2)).transpose(1, 2)


class _Product(torch.autograd.Function):
    """x W^T + b. Only the codes are kept for the backward pass, which makes W again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return F.linear(x, _matrix(codes, scales, shape, x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        codes, scales = ctx.saved_tensors
        to_x, to_bias = None, None
        if ctx.needs_input_grad[0]:
            to_x = gradient @ _matrix(codes, scales, ctx.shape, gradient.dtype)
        if ctx.needs_input_grad[3]:
            to_bias = gradient.flatten(0, -2).sum(0)
        return to_x, None, None, to_bias, None


@dataclass(frozen=True)
class QuantizationReport:
    """What quantising a network did."""

    kind: Quantization
    layers: int
    bytes_before: int
    bytes_after: int
    """Of the weights that were quantised; the others stay as they are."""


def quantize_network(
    network: nn.Module, kind: Quantization, *, device: torch.device | str | None = None, smallest: int = SMALLEST
) -> QuantizationReport:
    """Put the frozen weights of a network's repeated blocks into int8 or nf4, in place and one at a time.

    What stands in an nn.ModuleList is a repeated block, and there lies the bulk; layers outside of one (embeddings, the
    timestep's modulation, the first and the last layer) run once, shape all that follows, and stay. So do norms,
    convolutions over several frames, and weights of fewer than `smallest` numbers.
    device: each weight goes there before it is quantised and only its codes remain, so a network too large for that
    device may come from the CPU; what is not quantised is for the caller to move. Raises InputError where the network
    is quantised already, has adapters attached, has no such weights, or has trainable ones; CheckpointError at a weight
    with NaN or infinity in it.
    """
    if kind not in QUANTIZERS:
        raise InputError(f"quantization is {kind!r}; choose one of {', '.join(QUANTIZERS)}")
    if (there := quantization_of(network)) is not None:
        raise InputError(f"the network is quantised to {there} already; load it again for another precision")
    if any(hasattr(module, "base_layer") for module in network.modules()):
        raise InputError("an adapter is attached; detach it, quantise, and attach it again")
    names = quantizable(network, kind, smallest=smallest)
    if not names:
        raise InputError(f"the network has no weights in repeated blocks that {kind} suits")
    if any(parameter.requires_grad for name in names for parameter in network.get_submodule(name).parameters()):
        raise InputError("quantised weights cannot learn; freeze the network first (requires_grad_(False))")
    before = after = 0
    # Names, not layers: whoever held those would keep all of the old weights beside the new ones.
    for name in names:
        weight = network.get_parameter(f"{name}.weight")
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{name} holds NaN or infinity, which no scale can carry; get the base's files again")
        before += weight.nbytes
        del weight
        after += quantize_layer(network, name, kind, device=device)
    return QuantizationReport(kind, len(names), before, after)


def quantizable(network: nn.Module, kind: Quantization, *, smallest: int = SMALLEST) -> list[str]:
    """Names of the layers that `quantize_network` would take, in the network's order."""
    lists = tuple(f"{name}." if name else "" for name, module in network.named_modules() if _is_list(module))
    modules = ((name, module) for name, module in network.named_modules() if name.startswith(lists))
    return [name for name, module in modules if _suits(module, kind, smallest)]


def quantize_layer(
    network: nn.Module, name: str, kind: Quantization, *, device: torch.device | str | None = None
) -> int:
    """Quantise one of `quantizable` layers without looking at its numbers -> bytes of what replaced its weight.

    So it also counts: on FakeTensors, which have no numbers to look at.
    """
    layer = network.get_submodule(name)
    weight = layer.get_parameter("weight")
    quantized = QUANTIZERS[kind](weight if device is None else weight.to(device))
    parent, _, child = name.rpartition(".")
    made = QuantizedLinear if isinstance(layer, nn.Linear) else QuantizedPointwiseConv1d
    setattr(network.get_submodule(parent), child, made.of(layer, quantized))
    return quantized.codes.nbytes + quantized.scales.nbytes


def quantization_of(network: nn.Module) -> Quantization | None:
    """How a network's blocks are quantised; None where they are not."""
    for module in network.modules():
        if isinstance(module, _Quantized):
            return "int8" if module.codes.dtype == torch.int8 else "nf4"
    return None


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList)


def _suits(layer: nn.Module, kind: Quantization, smallest: int) -> bool:
    pointwise = isinstance(layer, nn.Conv1d) and (layer.kernel_size, layer.stride, layer.groups) == ((1,), (1,), 1)
    if not (pointwise and layer.padding in ((0,), "valid")) and not isinstance(layer, nn.Linear):
        return False
    numbers = layer.get_parameter("weight").numel()
    return numbers >= smallest and (kind != "nf4" or numbers % BLOCK == 0)


def _matrix(codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return QuantizedWeight(codes, scales, shape).dequantize(dtype).flatten(1)


def _storable(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Exact in bfloat16, in which a base is mostly kept: casting it there and back changes no bit. Zero becomes 1."""
    return torch.where(scales > 0, scales, 1.0).to(torch.bfloat16).to(dtype)


@lru_cache(maxsize=16)
def _pairs_of_levels(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(256,) numbers, each the bits of the two levels of a byte: one look-up gives two numbers."""
    # A table made under inference_mode could never take part in a backward pass, so none is.
    with torch.inference_mode(False), torch.no_grad():
        levels = nf4_levels().to(dtype)
        high, low = torch.arange(256) // 16, torch.arange(256) % 16
        pairs = torch.stack([levels[high], levels[low]], dim=1)
        wide = {2: torch.int32, 4: torch.int64, 8: torch.complex128}[dtype.itemsize]
        return pairs.view(wide).squeeze(1).to(device)
