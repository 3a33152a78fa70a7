"""A run's state on disk: everything that the next step depends on, whole or not at all.

Random numbers are functions of the seed and the position (datasets/seeding.py), and the learning rate one of the step,
so neither has a state of its own to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.errors import TrainingError
from acestep.lora.adapter import Adapter, write_adapter
from acestep.lora.attach import TrainableAdapter
from acestep.lora.whole_folder import written_whole
from acestep.training.results import ValidationResult

_TENSORS = "state.safetensors"
_POSITION = "state.json"


class RunIdentity(BaseModel, frozen=True):
    """What must be the same for a run to go on: the base, the tracks, the adapter's form and how they are walked."""

    base_fingerprint: str
    tracks_sha256: str
    lora: dict[str, Any]
    batch_size: int
    gradient_accumulation: int
    seed: int
    max_duration: float
    validation_split: float

    def differences(self, other: RunIdentity) -> list[str]:
        """One phrase for each thing in which `other`, the saved one, differs."""
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [f"{name} is {ours[name]}, was {theirs[name]}" for name in ours if ours[name] != theirs[name]]


class Position(BaseModel, frozen=True):
    """Where a run stands: `step` optimizer steps are done. The sums are of an epoch that is not over."""

    step: int
    epoch_loss_sum: float
    epoch_examples: int
    first_validation: ValidationResult | None
    last_validation: ValidationResult | None
    identity: RunIdentity


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    position: Position
    tensors: dict[str, Tensor]


def save_checkpoint(
    path: Path,
    position: Position,
    adapter: Adapter,
    parameters: Mapping[str, Tensor],
    optimizer: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """The adapter folder beside the exact state: parameters, and the optimizer's tensors by parameter name."""
    tensors = {f"parameter/{name}": tensor for name, tensor in parameters.items()}
    for name, state in optimizer.items():
        tensors |= {f"optimizer/{name}/{part}": tensor for part, tensor in state.items()}
    with written_whole(path) as partial:
        write_adapter(partial / "adapter", adapter, title=path.name)
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(kept, partial / _TENSORS)
        (partial / _POSITION).write_text(position.model_dump_json(indent=2), encoding="utf-8")


def latest_checkpoint(paths: list[Path]) -> Checkpoint | None:
    """The one with most steps behind it; None without any. TrainingError for one that cannot be read."""
    positions = {path: _read_position(path) for path in paths}
    newest = max(positions, key=lambda path: positions[path].step, default=None)
    if newest is None:
        return None
    try:
        return Checkpoint(newest, positions[newest], load_file(newest / _TENSORS))
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint {newest} cannot be read: {error}; delete it to go on from another"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, adapter: TrainableAdapter) -> dict[str, dict[str, Tensor]]:
    """The optimizer's tensors by the names of the parameters they belong to."""
    return {name: dict(optimizer.state[parameter]) for name, parameter in adapter.parameters().items()}


def restore(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, adapter: TrainableAdapter) -> None:
    """Put the saved values into the adapter and the optimizer."""
    parameters = adapter.parameters()
    adapter.load_parameters(_below(checkpoint.tensors, "parameter/"))
    for name, parameter in parameters.items():
        state = _below(checkpoint.tensors, f"optimizer/{name}/")
        # AdamW counts steps on the CPU whatever the device.
        optimizer.state[parameter] = {
            part: tensor if part == "step" else tensor.to(parameter.device) for part, tensor in state.items()
        }


def _read_position(path: Path) -> Position:
    try:
        return Position.model_validate_json((path / _POSITION).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"the checkpoint {path} cannot be read: {error}; delete it to go on from another"
        ) from error


def _unreadable(path: Path, error: Exception) -> TrainingError:
    return TrainingError(f"the checkpoint {path} cannot be read: {error}; delete it to go on from another")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
