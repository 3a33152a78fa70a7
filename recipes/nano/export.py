"""Stage 5: what was trained, as a checkpoint folder in the released layout, in 16 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from acestep.models.v1.log_mel import MEL_PREFIX, LogMel
from acestep.models.v1.phase_vocoder import PhaseVocoderConfig
from recipes.nano.transformer import Nano

MAX_BYTES = 25_000_000
# Log-mel error of 28 clips behind the autoencoder: 0.42 nats with none, 0.26 with 3, 0.24 with 8, and 0.24 s a round.
VOCODER_ITERATIONS = 3
# Of 28 clips of 12 s with cfg 3, cfg 5, apg 5 and apg 10: tempo right in 46, 46, 57 and 46 %, key in 46, 50, 39 and
# 50 %, distance to real clips 5.6, 8.9, 3.9 and 5.9, clipped 0, 21, 0 and 14 %.
SAMPLING = {
    "steps": 27, "guidance_scale": 5.0, "scheduler": "euler", "guidance": "apg", "guidance_interval": 1.0,
    "guidance_interval_decay": 0.0, "min_guidance_scale": 3.0, "omega_scale": 0.0, "erg": [],
}  # fmt: skip


def export_nano(folder: Path, nano: Nano, autoencoder: nn.Module, *, sampling: dict[str, Any] = SAMPLING) -> int:
    """Write the folder whose tokenizers are already there. -> bytes of all its files

    float16 rather than bfloat16: the weights are all far below its limit, and it keeps three more bits of each.
    """
    transformer = nano.transformer
    _write(folder / "ace_step_transformer", transformer.config.to_dict(), transformer.state_dict())
    _write(folder / "music_dcae_f8c8", autoencoder.config.to_dict(), autoencoder.state_dict())
    mel = {MEL_PREFIX + name: tensor for name, tensor in LogMel().state_dict().items()}
    _write(folder / "music_vocoder", PhaseVocoderConfig(iterations=VOCODER_ITERATIONS).to_dict(), mel)
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
