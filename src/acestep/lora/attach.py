"""Adapters on a network: for generation, several at once and off again; for training, one with its parameters.

PEFT's layers do the work, unmerged, so the base keeps its bits. What PEFT leaves on the network besides them (a config,
frozen parameters) is taken away again, and detaching puts the very modules back that were there.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from acestep.errors import AdapterError
from acestep.lora.adapter import Adapter, Factors
from acestep.lora.metadata import AdapterMetadata
from acestep.lora.strength import scale_of

_ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
_TRAINED_NAME = "trained"


def module_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Weight shapes of what can be adapted, by name, in the network's order, whether or not something is attached."""
    return {name: tuple(_weight(module).shape) for name, module in _base_modules(network)}


def attach(network: nn.Module, adapter: Adapter, *, name: str, weight: float = 1.0) -> None:
    """Add `weight` times the adapter to what the network computes; others that are attached stay and add up.

    Raises AdapterError for a name that is taken or a module that the network has not got.
    """
    if name in attached_names(network):
        raise AdapterError(f"an adapter named {name!r} is attached already; detach it, or choose another name")
    shapes = module_shapes(network)
    wrong = [module for module, factors in adapter.factors.items() if not _fits(factors, shapes.get(module))]
    if wrong:
        raise AdapterError(f"the adapter does not fit this model at {', '.join(wrong[:5])}: made for another base?")
    key = _key(name)
    _inject(network, {module: factors.rank for module, factors in adapter.factors.items()}, key)
    layers = dict(_lora_layers(network))
    for module, factors in adapter.factors.items():
        layer = layers[module]
        like = _weight(layer.get_base_layer())
        dtype = like.dtype if like.is_floating_point() else torch.float32
        for holder, tensor in ((layer.lora_A, factors.a), (layer.lora_B, factors.b)):
            holder[key].register_parameter("weight", nn.Parameter(tensor.to(like.device, dtype), requires_grad=False))
    set_weights(network, {name: weight})


def set_weights(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Change how strong attached adapters are; the others keep their weights. At 0 one costs nothing."""
    names = attached_names(network)
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise AdapterError(
            f"no adapter named {', '.join(unknown)} is attached; there are: {', '.join(names) or 'none'}"
        )
    for _, layer in _lora_layers(network):
        for name, weight in weights.items():
            if _key(name) in layer.lora_A:
                layer.scaling[_key(name)] = float(weight)
        layer.set_adapter([key for key in layer.lora_A if layer.scaling[key] != 0], inference_mode=True)


def detach(network: nn.Module, name: str) -> None:
    """Take an adapter off; where it was the last one on a module, the original module comes back."""
    key = _key(name)
    layers = [(module, layer) for module, layer in _lora_layers(network) if key in layer.lora_A]
    if not layers:
        names = ", ".join(attached_names(network)) or "none"
        raise AdapterError(f"no adapter named {name!r} is attached; there are: {names}")
    for module, layer in layers:
        remaining = [other for other in layer.active_adapters if other != key]
        layer.set_adapter(remaining, inference_mode=True)
        layer.delete_adapter(key)
        if not layer.lora_A:
            _replace(network, module, layer.get_base_layer())


def attached_names(network: nn.Module) -> list[str]:
    """Names of the adapters that are attached, in the order they came."""
    keys = {key: None for _, layer in _lora_layers(network) for key in layer.lora_A}
    return [_name(key) for key in keys]


@dataclass(frozen=True)
class TrainableAdapter:
    """An adapter in training: float32 parameters on a network whose own are frozen until `detach`."""

    network: nn.Module
    modules: tuple[str, ...]
    rank: int
    alpha: float
    rslora: bool
    _required_grad: frozenset[str]

    @property
    def scale(self) -> float:
        return scale_of(self.alpha, self.rank, rslora=self.rslora)

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in an adapter file, before the scale is put into B."""
        layers = dict(_lora_layers(self.network))
        found: dict[str, nn.Parameter] = {}
        for module in self.modules:
            for side, holder in (("A", layers[module].lora_A), ("B", layers[module].lora_B)):
                found[f"{module}.lora_{side}.weight"] = _weight(holder[_key(_TRAINED_NAME)])
        return found

    @torch.no_grad()
    def load_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values in, by the names of `parameters`; AdapterError where the names or shapes differ."""
        parameters = self.parameters()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        own = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        if shapes != own:
            differing = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
            raise AdapterError(f"the saved adapter has other parameters than this one: {', '.join(differing[:5])}")
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])

    def drop_out(self, active: bool) -> None:
        """Let the adapter's dropout act, as in training, or not. The base stays as it is, in eval mode."""
        for _, layer in _lora_layers(self.network):
            layer.lora_dropout.train(active)

    def adapter(self, metadata: AdapterMetadata | None = None) -> Adapter:
        """A copy of the present state as data, the scale in B."""
        values = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters().items()}
        factors = {
            module: Factors(values[f"{module}.lora_A.weight"], values[f"{module}.lora_B.weight"] * self.scale)
            for module in self.modules
        }
        return Adapter(factors, metadata or AdapterMetadata())

    def detach(self) -> None:
        """Give the network back as it was, its parameters' requires_grad included."""
        detach(self.network, _TRAINED_NAME)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in self._required_grad)


def attach_trainable(
    network: nn.Module,
    modules: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
    generator: torch.Generator | None = None,
) -> TrainableAdapter:
    """Put a new adapter on the modules named (see `targets.find_targets`) and freeze everything else.

    A starts uniform in +-1/sqrt(inputs), as nn.Linear does, B at zero, so training starts at the base. Nothing else may
    be attached. generator: on the CPU; the values do not depend on the device.
    """
    if names := attached_names(network):
        raise AdapterError(f"train on a bare network: {', '.join(names)} is attached; detach it first")
    required_grad = frozenset(name for name, parameter in network.named_parameters() if parameter.requires_grad)
    key = _key(_TRAINED_NAME)
    _inject(network, dict.fromkeys(modules, rank), key, dropout=dropout)
    network.requires_grad_(False)
    layers = dict(_lora_layers(network))
    for module in modules:
        layer = layers[module]
        device = _weight(layer.get_base_layer()).device
        shape = _weight(layer.lora_A[key]).shape
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        a = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        b = torch.zeros(_weight(layer.lora_B[key]).shape)
        layer.lora_A[key].register_parameter("weight", nn.Parameter(a.to(device)))
        layer.lora_B[key].register_parameter("weight", nn.Parameter(b.to(device)))
        layer.scaling[key] = scale_of(alpha, rank, rslora=rslora)
    return TrainableAdapter(network, tuple(modules), rank, alpha, rslora, required_grad)


def _inject(network: nn.Module, ranks: Mapping[str, int], key: str, *, dropout: float = 0.0) -> None:
    """PEFT's layers on exactly these modules, their factors on the meta device."""
    common = max(ranks.values())
    config = LoraConfig(
        r=common,
        lora_alpha=common,
        lora_dropout=dropout,
        # A list would also match modules whose names end alike; a pattern is matched against whole names.
        target_modules="|".join(re.escape(module) for module in ranks),
        rank_pattern={f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != common},
    )
    with _unmarked(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, network, adapter_name=key, low_cpu_mem_usage=True)


@contextmanager
def _unmarked(network: nn.Module) -> Iterator[None]:
    """Keep PEFT's marks off the network: the config that it stores there, and which parameters require gradients."""
    required = {id(parameter): parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        if hasattr(network, "peft_config"):
            del network.peft_config
        for parameter in network.parameters():
            parameter.requires_grad_(required.get(id(parameter), False))


def _lora_layers(network: nn.Module) -> list[tuple[str, LoraLayer]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer)]


def _base_modules(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules that can be adapted under their own names, seen through the layers that are attached to them."""
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        base = child.get_base_layer() if isinstance(child, LoraLayer) else child
        if isinstance(base, _ADAPTABLE):
            if getattr(base, "groups", 1) == 1:
                yield path, base
        else:
            yield from _base_modules(child, f"{path}.")


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _fits(factors: Factors, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and factors.fits(shape)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _key(name: str) -> str:
    """A name as a key that nn.ModuleDict takes: no dots, and none of its own attributes' names."""
    return "lora:" + name.replace("%", "%25").replace(".", "%2E")


def _name(key: str) -> str:
    return key.removeprefix("lora:").replace("%2E", ".").replace("%25", "%")
