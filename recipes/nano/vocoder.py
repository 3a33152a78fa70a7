"""Stage 3: a small Vocos, trained on true log-mels with spectral losses alone, without a discriminator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from acestep.models.v1.vocos import VocosConfig, VocosVocoder, inverse_stft
from recipes.nano.corpus import read_notes
from recipes.nano.features import HOP, log_mel
from recipes.nano.stages import train_stage

FRAMES = 48
RESOLUTIONS = (256, 512, 1024, 2048, 4096)


def build_vocoder() -> VocosVocoder:
    """1.9 million parameters."""
    return VocosVocoder(VocosConfig(dim=192, layers=6, intermediate_dim=576))


def train_vocoder(codec: Path, checkpoint: Path, *, steps: int, batch: int, device: torch.device) -> VocosVocoder:
    """Train on random segments of the codec corpus, one channel at a time."""
    files = [
        (np.load(file, mmap_mode="r"), np.load(str(file).replace(".mel.", ".audio."), mmap_mode="r"))
        for file, _ in read_notes(codec)
    ]
    torch.manual_seed(0)
    model = build_vocoder().to(device)

    def losses(step: int) -> dict[str, tuple[float, Tensor]]:
        mel, audio = (tensor.to(device) for tensor in _segments(files, batch, np.random.default_rng([5, step])))
        with torch.autocast(device.type, torch.bfloat16):
            magnitude, phase = model.spectrum(mel)
        made = inverse_stft(torch.polar(magnitude, phase), model.window.float(), model.hop_length)
        logs, convergence = _spectral_losses(made, audio)
        change = (log_mel(made) - log_mel(audio)).abs().mean()
        return {"log-stft": (1.0, logs), "convergence": (1.0, convergence), "mel": (1.0, change)}

    return train_stage("vocoder", model, losses, checkpoint, steps=steps, rate=1e-3, betas=(0.85, 0.99), max_norm=2.0)


def _spectral_losses(made: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Log-magnitude distance and spectral convergence (Yamamoto et al. 2020, arXiv:1910.11480), over RESOLUTIONS."""
    logs, convergence = [], []
    for size in RESOLUTIONS:
        window = torch.hann_window(size, device=made.device)
        made_stft, real_stft = (
            torch.stft(signal, size, size // 4, window=window, return_complex=True, center=True)
            for signal in (made, audio)
        )
        floor = 1e-4 * size
        made_size = (made_stft.real.square() + made_stft.imag.square() + 1e-9).sqrt()
        real_size = real_stft.abs()
        logs.append(((made_size + floor).log() - (real_size + floor).log()).abs().mean())
        convergence.append((made_size - real_size).norm() / (real_size.norm() + 1.0))
    return torch.stack(logs).mean(), torch.stack(convergence).mean()


def _segments(files: list, batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """-> log-mel (batch, 128, FRAMES), audio (batch, FRAMES * 512)"""
    mels, audios = [], []
    for _ in range(batch):
        index = int(rng.integers(len(files)))
        mel, audio = files[index]
        start, channel = int(rng.integers(mel.shape[-1] - FRAMES + 1)), int(rng.integers(2))
        mels.append(mel[channel, :, start : start + FRAMES])
        audios.append(audio[channel, start * HOP : (start + FRAMES) * HOP])
    return torch.from_numpy(np.stack(mels)).float(), torch.from_numpy(np.stack(audios)).float() / 32767
