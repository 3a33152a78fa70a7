"""A small vocoder that predicts a spectrogram's magnitudes and phases and inverts it (Siuzdak 2023, arXiv:2306.00814).

All its layers run at the mel rate and an inverse FFT makes the samples, where other vocoders upsample step by step:
cheap enough for a CPU. It stands behind the same interface: log-mel in, waveform out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.models.v1.convnext import ChannelNorm, ConvNeXtBlock

# The Hann window of n_fft samples sums to n_fft / 2: no bin of a signal within [-1, 1] is louder than that.
_LOUDEST_BIN = 0.5


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a Vocos vocoder; `mel_mean` and `mel_std` bring the log-mel to about unit scale first."""

    n_mels: int = 128
    dim: int = 256
    layers: int = 6
    intermediate_dim: int = 768
    n_fft: int = 2048
    hop_length: int = 512
    sampling_rate: int = 44100
    mel_mean: float = -4.0
    mel_std: float = 3.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VocosConfig:
        """Read a `config.json`; keys that the model has no use for are passed over."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` should hold so that `from_dict` gives this config back."""
        return {"_class_name": "VocosVocoder", **asdict(self)}


class VocosVocoder(nn.Module):
    """Log-mel to waveform; n_fft must be a multiple of the hop."""

    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = config.hop_length
        self.embed = nn.Conv1d(config.n_mels, config.dim, kernel_size=7, padding=3)
        self.embed_norm = ChannelNorm(config.dim)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.dim, config.intermediate_dim, gain=1 / config.layers) for _ in range(config.layers)
        )
        self.final_norm = ChannelNorm(config.dim)
        self.head = nn.Conv1d(config.dim, config.n_fft + 2, kernel_size=1)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    @property
    def halo_frames(self) -> int:
        """Mel frames to each side that a sample can depend on: windows overlapping by these leave no trace."""
        return 3 * (1 + self.config.layers) + self.config.n_fft // self.hop_length

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; the mel is cast to it."""
        return self.head.weight.dtype

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (batch, n_mels, frames) natural log -> (batch, 1, frames * hop_length) float32"""
        magnitude, phase = self.spectrum(mel)
        return inverse_stft(torch.polar(magnitude, phase), self.window.float(), self.hop_length).unsqueeze(1)

    def spectrum(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted magnitudes (at least 0) and phases in radians, each (batch, n_fft / 2 + 1, frames) float32."""
        x = self.embed_norm(self.embed(((mel - self.config.mel_mean) / self.config.mel_std).to(self.dtype)))
        for block in self.blocks:
            x = block(x)
        log_magnitude, phase = self.head(self.final_norm(x)).float().chunk(2, dim=1)
        return log_magnitude.clamp(max=math.log(_LOUDEST_BIN * self.config.n_fft)).exp(), phase


def inverse_stft(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Overlap-add of windowed inverse FFTs, divided by the windows' own sum of squares (Griffin and Lim 1984).

    spectrum: (batch, n_fft / 2 + 1, frames) complex, frame i centred on sample (i + 1/2) * hop_length, as `LogMel` lays
    its frames out; window: (n_fft,) -> (batch, frames * hop_length)
    """
    frames = spectrum.shape[-1]
    segments = torch.fft.irfft(spectrum.transpose(1, 2), n=len(window), dim=-1) * window
    envelope = overlap_add(window.square().expand(1, frames, -1), hop_length)
    start = (len(window) - hop_length) // 2
    kept = slice(start, start + frames * hop_length)
    return overlap_add(segments, hop_length)[:, kept] / envelope[:, kept]


def overlap_add(segments: Tensor, hop_length: int) -> Tensor:
    """segments: (batch, frames, size), size a multiple of the hop -> (batch, (frames - 1) * hop_length + size)"""
    parts = segments.shape[-1] // hop_length
    rows = sum(
        F.pad(segments[..., part * hop_length : (part + 1) * hop_length], (0, 0, part, parts - 1 - part))
        for part in range(parts)
    )
    assert isinstance(rows, Tensor)
    return rows.flatten(1)
