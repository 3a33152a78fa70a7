"""A layer with adapters on it: what the base computes, plus each adapter's change.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds s B A x. DoRA (Liu et al. 2024, arXiv:2402.09353) gives every output a
magnitude of its own: W' = m (W + s B A) / ||W + s B A||, the norm over each output's row. The base layer is only ever
called, so it may be quantised; its weight is looked at once for DoRA's norms. Costs two thin products a call.

Strength is linear for both kinds: at w the layer computes W + w (W' - W), so 0 is the base, 1 is as trained, and
several adapters are the sum of their changes. ComfyUI means the same; PEFT scales B A inside the norm, and agrees at 1
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import AdapterError
from acestep.lora.dropout import drop_out

_ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
_POINTWISE: dict[int, Callable[..., Tensor]] = {2: F.linear, 3: F.conv1d, 4: F.conv2d}

# Below this a row is taken for empty; DoRA would divide by it.
_SMALLEST_NORM = 1e-12


class LowRankChange(nn.Module):
    """One adapter's change to one layer: strength * scale * B A x, in the factors' dtype or autocast's.

    a: (rank, in, *kernel); b: (out, rank, *ones); both are kept as they are given, as parameters.
    """

    def __init__(self, a: Tensor, b: Tensor, *, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.scale, self.dropout = scale, dropout
        self.strength = 1.0
        self.drops_out = False

    def forward(self, x: Tensor, from_base: Tensor, base: nn.Module) -> Tensor:
        """x: the layer's input; from_base: what the base made of it -> what is added to that, of its shape"""
        return self.low_rank(x, base, self.strength * self.scale)

    def low_rank(self, x: Tensor, base: nn.Module, factor: float) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.a.dtype)
        if pointwise := _is_pointwise(base):
            # As the linear layer that it is: v1 keeps frames before channels in memory (models/v1/convolution.py).
            x = x.transpose(1, 2)
        if self.drops_out and self.dropout:
            x = drop_out(x, self.dropout)
        # On the few inner channels the factor costs least.
        if pointwise:
            inner = F.linear(x, self.a.squeeze(-1))
            return F.linear(inner * factor if factor != 1 else inner, self.b.squeeze(-1)).transpose(1, 2)
        inner = F.linear(x, self.a) if self.a.dim() == 2 else base._conv_forward(x, self.a, None)  # type: ignore[operator]
        return _POINTWISE[self.b.dim()](inner * factor if factor != 1 else inner, self.b)


class FixedDoraChange(LowRankChange):
    """A DoRA that does not learn: its gains m / ||W + s B A|| are worked out once, and go into B.

    a: in the dtype to compute in; b, gains (out,): float32.
    """

    def __init__(self, a: Tensor, b: Tensor, gains: Tensor) -> None:
        super().__init__(a, (_by_output(gains, b.dim(), axis=0) * b).to(a.dtype))
        self.register_buffer("more", (gains - 1).to(a.dtype))

    def forward(self, x: Tensor, from_base: Tensor, base: nn.Module) -> Tensor:
        more = _by_output(self.more, from_base.dim(), axis=_output_axis(self.a)) * self.strength  # type: ignore[arg-type]
        return self.low_rank(x, base, self.strength) + more * _without_bias(from_base, base, self.a)


class DoraChange(LowRankChange):
    """A DoRA that learns: `magnitude` (out,) float32 besides the factors, from ||W|| on; b starts at zero.

    The norm gets no gradient, as section 4.3 of the paper advises. Dropout falls on B A x alone.
    """

    def __init__(self, a: Tensor, b: Tensor, base: nn.Module, *, scale: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__(a, b, scale=scale, dropout=dropout)
        squares = dense_weight(base).flatten(1).square().sum(1)
        self.register_buffer("base_squares", squares)
        self.magnitude = nn.Parameter(squares.sqrt().clamp(min=_SMALLEST_NORM))

    def forward(self, x: Tensor, from_base: Tensor, base: nn.Module) -> Tensor:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            norms = changed_norms(dense_weight(base), self.a, self.b * self.scale, self.base_squares)  # type: ignore[arg-type]
        gains = _by_output(self.magnitude / norms, from_base.dim(), axis=_output_axis(self.a))
        more = (gains - 1) * _without_bias(from_base, base, self.a)
        return self.strength * (gains * self.low_rank(x, base, self.scale) + more)


class AdaptedLayer(nn.Module):
    """A base layer and the changes on it by their adapters' keys; a strength of 0 costs nothing."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_changes = nn.ModuleDict()
        # What is inside must look as the layer did; a network's `train()` and `eval()` find it in this state.
        self.train(base_layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """As the base layer; the sum is taken in the widest dtype at hand and given back in the base's."""
        from_base: Tensor = self.base_layer(x)
        result = from_base
        for change in self.changes().values():
            if change.strength:
                result = result + change(x, from_base, self.base_layer)
        return result.to(from_base.dtype)

    def changes(self) -> dict[str, LowRankChange]:
        return dict(self.lora_changes.items())  # type: ignore[arg-type]


def adaptable_modules(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules that can be adapted under their own names, seen through the layers that are on them already."""
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        base = child.base_layer if isinstance(child, AdaptedLayer) else child
        if isinstance(base, _ADAPTABLE):
            if getattr(base, "groups", 1) == 1:
                yield path, base
        else:
            yield from adaptable_modules(child, f"{path}.")


def weight_shape(base: nn.Module) -> tuple[int, ...]:
    """Of the weight that the layer stands for; a quantised one may store it in another."""
    if isinstance(base, nn.Linear):
        return base.out_features, base.in_features
    if isinstance(base, nn.Conv1d | nn.Conv2d):
        return base.out_channels, base.in_channels // base.groups, *base.kernel_size
    raise AdapterError(f"a {type(base).__name__} cannot take an adapter; linear layers and convolutions can")


def factor_dtype(base: nn.Module) -> torch.dtype:
    """What an adapter's factors are kept in for generation: the weight's own dtype, or what it is computed in."""
    # A quantised layer's `weight` may be made anew at each look, so what is stored is asked.
    for held in (*base.parameters(), *base.buffers()):
        if held.is_floating_point() and held.element_size() > 1:
            return held.dtype
    computed = getattr(base, "compute_dtype", None)
    return computed if isinstance(computed, torch.dtype) else torch.float32


def device_of(base: nn.Module) -> torch.device:
    for held in (*base.parameters(), *base.buffers()):
        return held.device
    return torch.device("cpu")


@torch.no_grad()
def dense_weight(base: nn.Module) -> Tensor:
    """The weight that the layer stands for, float32; a float32 weight is not copied.

    A quantised linear layer is asked what it makes of the identity, so every kind is understood.
    """
    weight, shape = getattr(base, "weight", None), weight_shape(base)
    if isinstance(weight, Tensor):
        # A quantised tensor's class says how it is unpacked; where only its layer knows, the dtype gives it away.
        if type(weight).dequantize is not Tensor.dequantize:
            return weight.detach().dequantize().float().reshape(shape)
        if weight.is_floating_point() and tuple(weight.shape) == shape:
            return weight.detach().float()
    if not isinstance(base, nn.Linear):
        raise AdapterError(f"the weight of a quantised {type(base).__name__} cannot be told; DoRA needs it")
    with torch.autocast(device_of(base).type, enabled=False):
        outputs: Tensor = base(torch.eye(shape[1], device=device_of(base), dtype=factor_dtype(base))).float()
    return (outputs - base.bias.float()).T if base.bias is not None else outputs.T


def changed_norms(weight: Tensor, a: Tensor, b: Tensor, base_squares: Tensor | None = None) -> Tensor:
    """||W + B A|| of every output's row, without making the sum.

    weight: (out, in, *kernel) float32; a, b: factors with the scale in b; base_squares: (out,), ||W||^2, if at hand
    -> (out,) float32
    """
    weight, a, b = weight.flatten(1), a.detach().flatten(1).float(), b.detach().flatten(1).float()
    squares = weight.square().sum(1) if base_squares is None else base_squares
    crossed = ((weight @ a.T) * b).sum(1)
    changed = ((b @ (a @ a.T)) * b).sum(1)
    return (squares + 2 * crossed + changed).clamp(min=0).sqrt().clamp(min=_SMALLEST_NORM)


def _without_bias(outputs: Tensor, base: nn.Module, a: Tensor) -> Tensor:
    bias = base.bias
    return outputs if bias is None else outputs - _by_output(bias, outputs.dim(), axis=_output_axis(a))  # type: ignore[arg-type]


def _is_pointwise(base: nn.Module) -> bool:
    sizes = (base.kernel_size, base.stride, base.padding) if isinstance(base, nn.Conv1d) else None
    return sizes == ((1,), (1,), (0,))


def _output_axis(a: Tensor) -> int:
    """Where a layer with factors of that shape has its outputs: last for linear layers, second for convolutions."""
    return -1 if a.dim() == 2 else 1


def _by_output(values: Tensor, dims: int, *, axis: int) -> Tensor:
    """values: (out,) -> of `dims` axes, all but `axis` of length one"""
    shape = [1] * dims
    shape[axis] = -1
    return values.view(shape)
