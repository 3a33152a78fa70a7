"""What an evaluation was made from and with: hashes and versions by which it can be made again and told from others."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from acestep.evaluation.prompts import Prompt
from acestep.lora.lineage import name_of, sha256_of
from acestep.lora.locating import locate_adapter
from acestep.lora.tensor_file import open_tensor_file

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Provenance:
    """adapter: name, sha256 of the file and of its tensors alone, which a new recommendation does not change."""

    adapter: Mapping[str, str] = field(default_factory=dict)
    prompts: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)


def describe_adapter(lora: str | Path) -> dict[str, str]:
    """Name and hashes; raises what `locate_adapter` raises."""
    weights = locate_adapter(lora).weights
    return {"name": name_of(lora), "sha256": sha256_of(weights), "tensors_sha256": tensors_sha256(weights)}


def tensors_sha256(path: Path) -> str:
    """Of names, shapes, types and bytes of a safetensors file's tensors: the header's metadata are left out."""
    opened = open_tensor_file(path)
    entries = [[name, entry.dtype, entry.shape, entry.start, entry.end] for name, entry in opened.entries.items()]
    digest = hashlib.sha256(json.dumps(sorted(entries)).encode())
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Of prompts and lyrics in their order, whatever file they came from."""
    asked = [[prompt.prompt, prompt.lyrics] for prompt in prompts]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("acesteps", "numpy", "torch")}}


def machine(device: torch.device | str) -> dict[str, Any]:
    """The kind of machine: on another kind the same command gives the same to rounding, not to the last bit."""
    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else platform.machine()
    return {"device": kind.type, "processor": name, "threads": torch.get_num_threads()}
