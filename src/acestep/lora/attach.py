"""Adapters on a network: for generation, several at once and off again; for training, one with its parameters.

The base layers stay inside ours (layers.py), so the base keeps its bits, and detaching puts the very modules back that
were there. Putting a rank-32 adapter on v1 takes a fraction of a second, on nano a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from acestep.errors import AdapterError
from acestep.lora.factors import Adapter, Factors
from acestep.lora.layers import (
    AdaptedLayer,
    DoraChange,
    FixedDoraChange,
    LowRankChange,
    adaptable_modules,
    changed_norms,
    dense_weight,
    device_of,
    factor_dtype,
    weight_shape,
)
from acestep.lora.metadata import AdapterMetadata, TrainedWith
from acestep.lora.strength import scale_of

_TRAINED_NAME = "trained"


def module_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Weight shapes of what can be adapted, by name, in the network's order, whether or not something is attached."""
    return {name: weight_shape(module) for name, module in adaptable_modules(network)}


def attach(network: nn.Module, adapter: Adapter, *, name: str, weight: float = 1.0) -> None:
    """Add `weight` times the adapter to what the network computes; others that are attached stay and add up.

    Raises AdapterError for a name that is taken or a module that the network has not got.
    """
    if name in attached_names(network):
        raise AdapterError(f"an adapter named {name!r} is attached already; detach it, or choose another name")
    modules = dict(adaptable_modules(network))
    wrong = [
        module
        for module, factors in adapter.factors.items()
        if module not in modules or not factors.fits(weight_shape(modules[module]))
    ]
    if wrong:
        raise AdapterError(f"the adapter does not fit this model at {', '.join(wrong[:5])}: made for another base?")
    changes = {module: _fixed_change(modules[module], factors) for module, factors in adapter.factors.items()}
    for module, change in changes.items():
        change.strength = float(weight)
        _put_on(network, module, _key(name), change)


def set_weights(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Change how strong attached adapters are; the others keep their weights. At 0 one costs nothing."""
    names = attached_names(network)
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise AdapterError(
            f"no adapter named {', '.join(unknown)} is attached; there are: {', '.join(names) or 'none'}"
        )
    strengths = {_key(name): float(weight) for name, weight in weights.items()}
    for _, layer in _adapted_layers(network):
        for key, change in layer.changes().items():
            change.strength = strengths.get(key, change.strength)


def detach(network: nn.Module, name: str) -> None:
    """Take an adapter off; where it was the last one on a module, the original module comes back."""
    key = _key(name)
    layers = [(module, layer) for module, layer in _adapted_layers(network) if key in layer.lora_changes]
    if not layers:
        names = ", ".join(attached_names(network)) or "none"
        raise AdapterError(f"no adapter named {name!r} is attached; there are: {names}")
    for module, layer in layers:
        del layer.lora_changes[key]
        if not layer.lora_changes:
            _replace(network, module, layer.base_layer)


def attached_names(network: nn.Module) -> list[str]:
    """Names of the adapters that are attached, in the order they came."""
    keys = {key: None for _, layer in _adapted_layers(network) for key in layer.lora_changes}
    return [_name(key) for key in keys]


@dataclass(frozen=True)
class TrainableAdapter:
    """An adapter in training: float32 parameters on a network whose own are frozen until `detach`.

    rank, alpha: what modules have that are not in `ranks` and `alphas`.
    """

    network: nn.Module
    modules: tuple[str, ...]
    rank: int
    alpha: float
    rslora: bool
    _required_grad: frozenset[str]
    dora: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def scale(self, module: str) -> float:
        """What B A is multiplied by on that module."""
        return self._changes()[module].scale

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in an adapter file, before the scale is put into B; for DoRA the magnitudes too, (out,)."""
        found: dict[str, nn.Parameter] = {}
        for module, change in self._changes().items():
            found[f"{module}.lora_A.weight"], found[f"{module}.lora_B.weight"] = change.a, change.b
            if isinstance(change, DoraChange):
                found[f"{module}.lora_magnitude_vector"] = change.magnitude
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
        for change in self._changes().values():
            change.drops_out = active

    @property
    def trained_with(self) -> TrainedWith:
        """What an adapter file is to record of how this one is trained."""
        return TrainedWith(
            rank=self.rank,
            alpha=self.alpha,
            rslora=self.rslora,
            dora=self.dora,
            ranks=dict(self.ranks),
            alphas=dict(self.alphas),
        )

    def adapter(self, metadata: AdapterMetadata | None = None) -> Adapter:
        """A copy of the present state as data, the scale in B."""
        values = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters().items()}
        factors = {
            module: Factors(
                values[f"{module}.lora_A.weight"],
                values[f"{module}.lora_B.weight"] * change.scale,
                values.get(f"{module}.lora_magnitude_vector"),
            )
            for module, change in self._changes().items()
        }
        return Adapter(factors, metadata or AdapterMetadata(trained=self.trained_with))

    def detach(self) -> None:
        """Give the network back as it was, its parameters' requires_grad included."""
        detach(self.network, _TRAINED_NAME)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in self._required_grad)

    def _changes(self) -> dict[str, LowRankChange]:
        key, layers = _key(_TRAINED_NAME), dict(_adapted_layers(self.network))
        return {module: layers[module].changes()[key] for module in self.modules}


def attach_trainable(
    network: nn.Module,
    modules: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
) -> TrainableAdapter:
    """Put a new adapter on the modules named (see `targets.find_targets`) and freeze everything else.

    A starts uniform in +-1/sqrt(inputs), as nn.Linear does, B at zero, so training starts at the base; with `dora` the
    magnitudes start at the base's own. ranks, alphas: of modules that have others, by whole names (see
    `targets.find_ranks`); where only a rank is given, alpha keeps its ratio to it. Nothing else may be attached.
    generator: on the CPU; the values do not depend on the device.
    """
    if names := attached_names(network):
        raise AdapterError(f"train on a bare network: {', '.join(names)} is attached; detach it first")
    ranks, alphas = dict(ranks or {}), dict(alphas or {})
    bases = dict(adaptable_modules(network))
    if unknown := [name for name in (*modules, *ranks, *alphas) if name not in bases]:
        raise AdapterError(f"this model has no module {', '.join(unknown[:5])} that can take an adapter")
    ranks = {module: ranks[module] for module in modules if ranks.get(module, rank) != rank}
    alphas = {module: alphas.get(module, alpha * ranks.get(module, rank) / rank) for module in modules}
    alphas = {module: own for module, own in alphas.items() if own != alpha}
    if bad := [f"{module}: {own}" for module, own in {"rank": rank, **ranks}.items() if own < 1]:
        raise AdapterError(f"a rank is at least 1, found {', '.join(bad[:5])}")
    required_grad = frozenset(name for name, parameter in network.named_parameters() if parameter.requires_grad)
    network.requires_grad_(False)
    for module in modules:
        base, own_rank = bases[module], ranks.get(module, rank)
        out, *inputs = weight_shape(base)
        bound = 1 / math.sqrt(math.prod(inputs))
        a = torch.empty(own_rank, *inputs).uniform_(-bound, bound, generator=generator).to(device_of(base))
        b = torch.zeros(out, own_rank, *(1 for _ in inputs[1:]), device=device_of(base))
        scale = scale_of(alphas.get(module, alpha), own_rank, rslora=rslora)
        learns = DoraChange(a, b, base, scale=scale, dropout=dropout) if dora else None
        _put_on(network, module, _key(_TRAINED_NAME), learns or LowRankChange(a, b, scale=scale, dropout=dropout))
    return TrainableAdapter(network, tuple(modules), rank, alpha, rslora, required_grad, dora, ranks, alphas)


def _fixed_change(base: nn.Module, factors: Factors) -> LowRankChange:
    """On the base's device, in its dtype; DoRA's norms are taken before the factors lose digits."""
    device, dtype = device_of(base), factor_dtype(base)
    if factors.magnitude is None:
        return LowRankChange(factors.a.to(device, dtype), factors.b.to(device, dtype)).requires_grad_(False)
    a, b, magnitude = (tensor.to(device).float() for tensor in (factors.a, factors.b, factors.magnitude))
    gains = magnitude / changed_norms(dense_weight(base), a, b)
    return FixedDoraChange(a.to(dtype), b, gains).requires_grad_(False)


def _put_on(network: nn.Module, module: str, key: str, change: LowRankChange) -> None:
    found = network.get_submodule(module)
    if not isinstance(found, AdaptedLayer):
        found = AdaptedLayer(found)
        _replace(network, module, found)
    found.lora_changes[key] = change


def _adapted_layers(network: nn.Module) -> list[tuple[str, AdaptedLayer]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, AdaptedLayer)]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _key(name: str) -> str:
    """A name as a key that nn.ModuleDict takes: no dots, and none of its own attributes' names."""
    return "lora:" + name.replace("%", "%25").replace(".", "%2E")


def _name(key: str) -> str:
    return key.removeprefix("lora:").replace("%2E", ".").replace("%25", "%")
