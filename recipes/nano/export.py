"""Stage 5: what was trained, as a checkpoint folder in the released layout, in 16 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from acestep.models.v1.log_mel import MEL_PREFIX, LogMel
from recipes.nano.transformer import Nano

MAX_BYTES = 25_000_000
# Measured by evaluate.py's sweep: see the model card.
SAMPLING = {
    "steps": 27, "guidance_scale": 4.0, "scheduler": "euler", "guidance": "cfg", "guidance_interval": 1.0,
    "guidance_interval_decay": 0.0,
    "min_guidance_scale": 3.0, "omega_scale": 0.0, "erg": [],
}  # fmt: skip


def export_nano(
    folder: Path, nano: Nano, autoencoder: nn.Module, vocoder: nn.Module, *, sampling: dict[str, Any] = SAMPLING
) -> int:
    """Write the folder whose tokenizers are already there. -> bytes of all its files

    float16 rather than bfloat16: the weights are all far below its limit, and it keeps three more bits of each.
    """
    transformer = nano.transformer
    _write(folder / "ace_step_transformer", transformer.config.to_dict(), transformer.state_dict())
    _write(folder / "music_dcae_f8c8", autoencoder.config.to_dict(), autoencoder.state_dict())
    mel = {MEL_PREFIX + name: tensor for name, tensor in LogMel().state_dict().items()}
    _write(folder / "music_vocoder", vocoder.config.to_dict(), {**vocoder.state_dict(), **mel})
    text = {
        name: tensor for name, tensor in nano.text_encoder.state_dict().items() if name != "encoder.embed_tokens.weight"
    }
    _write(folder / "umt5-base", nano.text_encoder.config.to_dict(), text, "model.safetensors")
    _write_json(folder / "family.json", {"name": "nano", "sampling": sampling})
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write(
    folder: Path, config: dict[str, Any], weights: dict[str, Tensor], name: str = "diffusion_pytorch_model.safetensors"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    halves = {key: tensor.detach().cpu().to(torch.float16).contiguous() for key, tensor in weights.items()}
    partial = folder / (name + ".partial")
    save_file(halves, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(folder / name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
