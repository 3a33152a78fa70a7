"""A run's state on disk: everything that the next batch depends on, whole or not at all.

Random numbers are functions of the seed and the position (datasets/seeding.py), and the learning rate one of the step,
so neither has a state of its own to keep.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.datasets.latent_dataset import track_changes
from acestep.errors import CheckpointError, TrainingError
from acestep.lora.adapter import Adapter, write_adapter
from acestep.lora.whole_folder import written_whole
from acestep.training.results import ExampleLoss, ValidationResult

logger = logging.getLogger(__name__)

_TENSORS = "state.safetensors"
_POSITION = "state.json"


class RunIdentity(BaseModel, frozen=True):
    """What must be the same for a run to go on: the base, the tracks, the adapter's form and how they are walked.

    tracks: a digest of everything that a step takes from a track, by its name; settings: by their names in the config.
    """

    base_fingerprint: str
    tracks: dict[str, str]
    settings: dict[str, Any]

    def differences(self, other: RunIdentity) -> list[str]:
        """One phrase for each thing in which `other`, the saved one, differs."""
        found = []
        if self.base_fingerprint != other.base_fingerprint:
            found.append(
                f"the base model is another (fingerprint {self.base_fingerprint[:12]}, was"
                f" {other.base_fingerprint[:12]})"
            )
        found += [f"tracks {change}" for change in track_changes(other.tracks, self.tracks)]
        for name in self.settings.keys() | other.settings.keys():
            now, was = (settings.get(name) for settings in (self.settings, other.settings))
            if now != was:
                found.append(f"{name} is {now}, was {was}")
        return sorted(found)


class Position(BaseModel, frozen=True):
    """Where a run stands: `step` optimizer steps are done, and `examples` of the next one, whose gradients are kept.

    The epoch's sums are of an epoch that is not over. batch_size: the configured one, or what memory has left of it.
    """

    step: int
    examples: tuple[ExampleLoss, ...]
    batches_done: int
    batch_size: int
    epoch_loss_sum: float
    epoch_examples: int
    first_validation: ValidationResult | None
    last_validation: ValidationResult | None
    best_step: int | None
    optimization: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]
    identity: RunIdentity


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by `kind/name`, see `below`."""

    path: Path
    position: Position
    tensors: dict[str, Tensor]

    def below(self, kind: str) -> dict[str, Tensor]:
        """The tensors of one kind, by name."""
        prefix = f"{kind}/"
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(
    path: Path, position: Position, adapter: Adapter, tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """The adapter folder beside the exact state, tensors by kind and name; OSError where the disk does not take it."""
    kept = {
        f"{kind}/{name}": tensor.detach().cpu().contiguous()
        for kind, named in tensors.items()
        for name, tensor in named.items()
    }
    try:
        with written_whole(path) as partial:
            write_adapter(partial / "adapter", adapter, title=path.name)
            save_file(kept, partial / _TENSORS)
            (partial / _POSITION).write_text(position.model_dump_json(indent=2), encoding="utf-8")
    except (SafetensorError, CheckpointError) as error:
        # What a full disk is called depends on who was writing.
        raise OSError(str(error)) from error


def latest_checkpoint(paths: Sequence[Path]) -> Checkpoint | None:
    """The readable one with most steps behind it; None where there is none at all.

    A damaged one is named in the log and passed over. TrainingError where all are damaged.
    """
    positions: dict[Path, Position] = {}
    problems = []
    for path in paths:
        try:
            positions[path] = Position.model_validate_json((path / _POSITION).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{path} cannot be read: {error}")
    for path in sorted(positions, key=lambda path: (positions[path].step, positions[path].batches_done), reverse=True):
        try:
            checkpoint = Checkpoint(path, positions[path], load_file(path / _TENSORS))
        except (OSError, SafetensorError) as error:
            problems.append(f"{path} cannot be read: {error}")
            continue
        for problem in problems:
            logger.warning("%s; the run goes on from %s", problem, path.name)
        return checkpoint
    if problems:
        raise TrainingError(f"{'; '.join(problems)}. Start again in another output_dir, or delete this one.")
    return None
