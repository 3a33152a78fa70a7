"""The formats that adapters are written in: how each program names a module's tensors and where it looks for alpha.

Every format gets the scale in B and alpha = rank, and one rank in all modules, padded with zeros: what a reader makes
of strength then cannot depend on which reader it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.errors import AdapterError, InputError
from acestep.lora.factors import Adapter, Factors
from acestep.lora.locating import CONFIG_FILE, PEFT_WEIGHTS_FILE, WEIGHTS_FILE
from acestep.lora.metadata import HEADER_KEY
from acestep.lora.strength import HEADER_KEY as STRENGTH_KEY
from acestep.lora.tensor_stream import PlannedTensor, write_tensors

PeftConfig = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One program's way of writing an adapter."""

    name: str
    prefix: str = ""
    flattened: bool = False
    """Underscores for the dots of a module's name."""
    down: str = "lora_A.weight"
    up: str = "lora_B.weight"
    magnitude: str = "lora_magnitude_vector"
    alpha: bool = False
    """Whether every module gets an alpha tensor."""
    weights_file: str | None = None
    """The file's name in a folder; None for a format of single files."""
    config: bool = False
    """Whether PEFT's config lies beside the weights."""
    header: Callable[[PeftConfig], dict[str, str]] = lambda config: {STRENGTH_KEY: json.dumps(config)}

    def key(self, module: str, part: str) -> str:
        return f"{self.prefix}{module.replace('.', '_') if self.flattened else module}.{part}"

    def tensors(self, module: str, factors: Factors) -> dict[str, Tensor]:
        """What stands in the file for one module, whose factors have the file's rank."""
        parts = {self.down: factors.a, self.up: factors.b}
        if self.alpha:
            parts["alpha"] = torch.tensor(float(factors.rank))
        if factors.magnitude is not None:
            ones = factors.b.dim() - 2
            # PEFT keeps magnitudes along the channels of a convolution's output, LyCORIS along those of its weight.
            peft = (-1,) if ones == 0 else (1, -1, *(1 for _ in range(ones)))
            shape = peft if self.magnitude == "lora_magnitude_vector" else (-1, 1, *(1 for _ in range(ones)))
            parts[self.magnitude] = factors.magnitude.view(shape)
        return {self.key(module, part): tensor for part, tensor in parts.items()}


ACESTEP = Format("acestep", weights_file=WEIGHTS_FILE, config=True)
_FORMATS = (
    ACESTEP,
    Format("peft", prefix="base_model.model.", weights_file=PEFT_WEIGHTS_FILE, config=True),
    Format(
        "diffusers",
        prefix="transformer.",
        weights_file=WEIGHTS_FILE,
        header=lambda config: {STRENGTH_KEY: json.dumps({f"transformer.{name}": v for name, v in config.items()})},
    ),
    Format("comfyui", prefix="diffusion_model.", magnitude="dora_scale", alpha=True, header=lambda config: {}),
    Format(
        "kohya",
        prefix="lora_unet_",
        flattened=True,
        down="lora_down.weight",
        up="lora_up.weight",
        magnitude="dora_scale",
        alpha=True,
        header=lambda config: {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(config["r"]),
            "ss_network_alpha": str(float(config["lora_alpha"])),
        },
    ),
)
FORMATS = {known.name: known for known in _FORMATS}


def find_format(name: str) -> Format:
    """InputError lists what there is."""
    if name not in FORMATS:
        raise InputError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def save_adapter_file(
    path: Path, adapter: Adapter, chosen: Format, *, dtype: torch.dtype | None = None, with_config: bool = True
) -> None:
    """Write the weights to `path`, and PEFT's config beside them where the format has one; for use in a new folder.

    dtype: None keeps the factors' own. Alpha tensors are float32 whatever it is. Raises AdapterError for what no
    program could read, CheckpointError where the disk does not take it.
    """
    config = peft_config(adapter)
    rank = adapter.rank
    if adapter.is_dora and (plain := [name for name, own in adapter.factors.items() if own.magnitude is None]):
        raise AdapterError(
            f"some modules are DoRA and {', '.join(plain[:5])} are not, which no program reads; write two files"
        )
    tensors: dict[str, Tensor] = {}
    for module, factors in adapter.factors.items():
        for key, tensor in chosen.tensors(module, factors.padded(rank)).items():
            if key in tensors:
                raise AdapterError(f"two modules would both be called {key} in the {chosen.name} format; use another")
            tensors[key] = tensor
    planned = {
        key: PlannedTensor(dtype if dtype is not None and tensor.dim() else tensor.dtype, tuple(tensor.shape))
        for key, tensor in tensors.items()
    }
    # Not by the library, which orders the header by chance: equal adapters are equal files, with one sha256.
    header = {**chosen.header(config), HEADER_KEY: adapter.metadata.model_dump_json()}
    write_tensors(path, planned, tensors.__getitem__, metadata=header)
    if chosen.config and with_config:
        path.with_name(CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def peft_config(adapter: Adapter) -> PeftConfig:
    """PEFT's config, true for the factors as they are written: alpha is the rank, so every reader's scale is 1."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": adapter.metadata.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapter.factors),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": adapter.is_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
