"""From a name to a checkpoint folder: "nano", a folder, or a hub id through huggingface_hub's cache."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from acestep.errors import InputError, MissingWeightsError

logger = logging.getLogger(__name__)

NANO = "nano"
NANO_FOLDER = Path(__file__).parents[1] / "assets" / NANO
V1_HUB_ID = "ACE-Step/ACE-Step-v1-3.5B"

V1_FILES = (
    "ace_step_transformer/config.json",
    "ace_step_transformer/diffusion_pytorch_model.safetensors",
    "music_dcae_f8c8/config.json",
    "music_dcae_f8c8/diffusion_pytorch_model.safetensors",
    "music_vocoder/config.json",
    "music_vocoder/diffusion_pytorch_model.safetensors",
    "umt5-base/config.json",
    "umt5-base/model.safetensors",
    "umt5-base/tokenizer.json",
    "umt5-base/tokenizer_config.json",
)
REPRESENTATION_FILES = ("config.json", "model.safetensors")
"""What is read of an encoder that representation-alignment losses need."""
_OPTIONAL_FILES = ("umt5-base/special_tokens_map.json", "lyric_tokenizer/vocab.json", "family.json")
_RELEASED_GB = {V1_HUB_ID: 8.3}
HUB_ID = re.compile(r"[A-Za-z0-9_-][\w.-]*/[A-Za-z0-9_-][\w.-]*")
"""What the hub takes as a repository's name."""
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""Files that can run code when they are read; never read here."""


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The folder that holds the checkpoint, fetched into the hub's cache where it is a hub id and not there yet.

    Raises InputError for a name that is none of the three, MissingWeightsError where weights are missing and cannot
    be fetched.
    """
    name = str(name_or_path)
    if name == NANO:
        return _complete(NANO_FOLDER)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return _complete(folder)
    if folder.is_file():
        raise InputError(f"{name} is a file; give the checkpoint's folder, a hub id such as {V1_HUB_ID}, or {NANO!r}")
    if isinstance(name_or_path, Path) or not HUB_ID.fullmatch(name):
        raise InputError(
            f"{name!r} is no folder here; give a checkpoint's folder, a hub id such as {V1_HUB_ID}, or {NANO!r}"
        )
    return _from_hub(name)


def missing_files(folder: Path) -> list[str]:
    """Those of the files a checkpoint needs that `folder` lacks."""
    return [name for name in V1_FILES if not (folder / name).is_file()]


def _complete(folder: Path) -> Path:
    missing = missing_files(folder)
    if not missing:
        return folder
    pickles = sorted(path.name for path in folder.glob("*/*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise MissingWeightsError(
            f"{folder} has weights as pickles ({', '.join(pickles)}), which can run code when read and are refused; "
            f"it lacks {', '.join(missing)}. Convert them to safetensors, "
            f"or get the released files: {_command(V1_HUB_ID)}"
        )
    raise MissingWeightsError(
        f"{folder} is no complete checkpoint; it lacks {', '.join(missing)}. "
        f"The released one ({_RELEASED_GB[V1_HUB_ID]} GB) comes with: {_command(V1_HUB_ID)}"
    )


def _from_hub(hub_id: str) -> Path:
    # Importing huggingface_hub takes a third of a second, which a local checkpoint need not pay.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [*V1_FILES, *_OPTIONAL_FILES]
    try:
        cached = Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True))
        if not missing_files(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    logger.info("fetching %s%s", hub_id, _size(hub_id))
    try:
        fetched = Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:  # the hub raises its own, its client's and the system's errors; all mean: not here
        raise MissingWeightsError(
            f"the weights of {hub_id}{_size(hub_id)} are not on this machine and could not be fetched "
            f"({type(error).__name__}). On a machine with a connection: {_command(hub_id)}. "
            f"Without any download, the embedded model works: {NANO!r}"
        ) from error
    missing = missing_files(fetched)
    if missing:
        raise MissingWeightsError(
            f"{fetched} is no complete copy of {hub_id}{_size(hub_id)}, or that is no ACE-Step v1 checkpoint; "
            f"it lacks {', '.join(missing)}. To get all of it: {_command(hub_id)}"
        )
    return fetched


def _size(hub_id: str) -> str:
    return f" ({_RELEASED_GB[hub_id]} GB)" if hub_id in _RELEASED_GB else ""


def _command(hub_id: str) -> str:
    return f"hf download {hub_id}"
