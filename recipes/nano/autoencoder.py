"""Stage 2: the music autoencoder, in the released layout, its latents near unit scale and easy to denoise.

The v1 code shifts and scales the encoder's output with constants of its own, (z + 1.9091) * 0.1786, so the network is
trained
through those: what comes after them has about zero mean and unit variance. A little noise on the latents while training
keeps the decoder smooth where the transformer will be slightly wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from recipes.nano.corpus import read_notes
from recipes.nano.stages import train_stage

CROP = 128
LATENT_NOISE = 0.12
SIZE_WEIGHT = 0.004
# The mel's scale inside the network: losses are per unit of it.
NATS = 7.0
_CHANNELS = (16, 32, 64, 128)
_LAYERS = (0, 1, 2, 2)


def build_autoencoder() -> MusicAutoencoder:
    """Residual blocks only, none at full resolution; 1.7 million parameters. Latents: (batch, 8, 16, frames / 8)."""
    config = AutoencoderConfig(
        encoder_block_types=("ResBlock",) * 4, decoder_block_types=("ResBlock",) * 4,
        encoder_block_out_channels=_CHANNELS,
        decoder_block_out_channels=_CHANNELS, encoder_layers_per_block=_LAYERS, decoder_layers_per_block=_LAYERS,
        encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4, encoder_out_shortcut=False,
        decoder_in_shortcut=False,
    )  # fmt: skip
    model = MusicAutoencoder(config)
    with torch.no_grad():
        model.encoder.conv_out.weight.mul_(1 / config.latent_scale)
        model.encoder.conv_out.bias.fill_(config.latent_shift)
        model.decoder.conv_in.weight.mul_(config.latent_scale)
    return model


def train_autoencoder(
    codec: Path, checkpoint: Path, *, steps: int, batch: int, device: torch.device
) -> MusicAutoencoder:
    """Train on random crops of the codec corpus with L1 on the mel and on its change in time, where transients live."""
    mels = [np.load(file) for file, _ in read_notes(codec)]
    torch.manual_seed(0)
    model = build_autoencoder().to(device, memory_format=torch.channels_last)

    def losses(step: int) -> dict[str, tuple[float, Tensor]]:
        clean = _crops(mels, batch, np.random.default_rng([4, step]))
        clean = clean.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            latents = model.encode(clean)
            decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents))
        return {
            "nats": (1 / NATS, (decoded - clean).abs().mean()),
            "nats of change": (0.3 / NATS, (decoded.diff(dim=-1) - clean.diff(dim=-1)).abs().mean()),
            "latent square": (SIZE_WEIGHT, latents.square().mean()),
        }

    return train_stage("autoencoder", model, losses, checkpoint, steps=steps, rate=2e-3)


def _crops(mels: list[np.ndarray], batch: int, rng: np.random.Generator) -> Tensor:
    chosen = []
    for _ in range(batch):
        mel = mels[int(rng.integers(len(mels)))]
        start = int(rng.integers(mel.shape[-1] - CROP + 1))
        chosen.append(mel[:, :, start : start + CROP])
    return torch.from_numpy(np.stack(chosen)).float()
