"""Weights from safetensors files into networks, checked name by name and shape by shape before anything is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acestep.errors import CheckpointError
from acestep.wording import names_text

_LISTED = 8


def read_config(path: Path) -> dict[str, Any]:
    """A component's config.json."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable JSON ({error}); get the file again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds {type(config).__name__}, expected a JSON object; get the file again")
    return config


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file's tensors, from its header alone."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping


def load_weights(
    network: nn.Module, path: Path, *, dtype: torch.dtype | None = None, unread: Collection[str] = ()
) -> None:
    """Fill `network`, which may be on the meta device, with the tensors of `path`, cast to `dtype`.

    `unread` names what the file may hold and the network never reads; it is not read from disk. Raises
    CheckpointError with all missing,
    unexpected and misshapen tensors at once, before the network is touched.
    """
    wanted = network.state_dict()
    shapes = read_shapes(path)
    problems = [
        *_listed("missing", sorted(wanted.keys() - shapes.keys())),
        *_listed("unexpected", sorted(shapes.keys() - wanted.keys() - set(unread))),
        *_listed(
            "misshapen",
            [
                f"{name} is {list(shapes[name])}, expected {list(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in shapes and shapes[name] != tuple(tensor.shape)
            ],
        ),
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit its config.json: {'; '.join(problems)}. Get the file again.")
    with _opened(path) as file:
        tensors = {name: _cast(file.get_tensor(name), dtype) for name in wanted}
    network.load_state_dict(tensors, assign=True)


class _Unfilled(TorchFunctionMode):
    """Skips torch.nn.init, which on the meta device does nothing but import torch's compiler for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Within the block, networks are built of shapes alone, on the meta device, for `load_weights` to fill."""
    with _Unfilled(), torch.device("meta"):
        yield


def require_finite(network: nn.Module) -> None:
    """CheckpointError naming the tensors that hold NaN or infinity: nothing could be learned on top of them."""
    bad = [name for name, tensor in _base_tensors(network) if not torch.isfinite(tensor).all()]
    if bad:
        listed = names_text(bad, _LISTED)
        raise CheckpointError(f"the base model's weights hold NaN or infinity in {listed}; get its files again")


def fingerprint(network: nn.Module) -> str:
    """sha256 over names, shapes and values of the base weights, adapters left out.

    Values are rounded to bfloat16, in which the checkpoints are released, so that a model has one fingerprint in
    whichever precision it runs.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_tensors(network)):
        digest.update(f"{name} {list(tensor.shape)}\n".encode())
        rounded = tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor.detach()
        digest.update(rounded.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _base_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and stored buffers under the names they have without adapters on their layers."""
    for name, tensor in network.state_dict().items():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}); get the file again") from error


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _listed(kind: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {kind} ({names_text(names, _LISTED)})"] if names else []
