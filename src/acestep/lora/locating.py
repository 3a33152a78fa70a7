"""Where an adapter's files are: a file, a folder, or a repository on the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from acestep.errors import CheckpointError, MissingWeightsError
from acestep.families.hub import HUB_ID, PICKLE_SUFFIXES
from acestep.lora.catalogue import hub_id_of

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
CONFIG_FILE = "adapter_config.json"

PEFT_WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class AdapterFiles:
    weights: Path
    config: Path | None


def locate_adapter(path: str | Path) -> AdapterFiles:
    """The files of an adapter; CheckpointError where there are none or only pickles, which can run code when read."""
    place = Path(path).expanduser()
    # `Path.exists` raises for a name that is longer than a disk takes.
    if not os.path.exists(place) and (repository := hub_id_of(path) or HUB_ID.fullmatch(str(path))):
        place = _download(repository if isinstance(repository, str) else repository[0])
    if not os.path.exists(place):
        raise MissingWeightsError(
            f"there is no adapter at {path}; give a file, a folder, a hub id (owner/name) or an official LoRA's name"
        )
    weights = _weights_in(place) if place.is_dir() else place
    if weights.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(_pickle_message(weights))
    if weights.suffix.lower() != ".safetensors":
        raise CheckpointError(f"{weights} is no safetensors file; an adapter is a .safetensors file or its folder")
    config = weights.with_name(CONFIG_FILE)
    return AdapterFiles(weights, config if config.exists() else None)


def _weights_in(folder: Path) -> Path:
    for name in (WEIGHTS_FILE, PEFT_WEIGHTS_FILE):
        if (folder / name).exists():
            return folder / name
    candidates = sorted(folder.glob("*.safetensors"))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(file.name for file in candidates)
        raise CheckpointError(f"{folder} holds several safetensors files ({names}); give the one that is meant")
    pickles = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in PICKLE_SUFFIXES]
    if pickles:
        raise CheckpointError(_pickle_message(pickles[0]))
    raise CheckpointError(f"{folder} holds no adapter; expected {WEIGHTS_FILE} in it")


def _pickle_message(path: Path) -> str:
    return f"{path} is a pickle, which can run any code when it is read; ask its author for a safetensors file"


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.safetensors", CONFIG_FILE]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingWeightsError(
            f"no adapter here is named {repository}, and the hub did not give one ({error});"
            f" try `hf download {repository}`"
        ) from error
