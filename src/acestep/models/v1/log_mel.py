"""Waveform to the log-mel spectrogram that the v1 autoencoder and vocoders speak."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEL_PREFIX = "mel_transform."
"""Where a vocoder's file keeps this module's two tensors."""

_MAGNITUDE_FLOOR = 1e-6
_MEL_FLOOR = 1e-5


@dataclass(frozen=True)
class LogMelConfig:
    """The numbers of the spectrogram, under the names of the vocoder's `config.json`; frequencies in Hz."""

    sampling_rate: int = 44100
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    f_min: float = 40.0
    f_max: float = 16000.0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> LogMelConfig:
        """Read them from a vocoder's `config.json`."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})


class LogMel(nn.Module):
    """log(max(mel, 1e-5)) of the magnitudes of a Hann-windowed STFT; frame i is centred on sample (i + 1/2) * hop.

    The window and the filters are buffers, because the released vocoder's file holds them rounded to bfloat16 and its
    model was trained with those: load them where they are stored. They stay float32 when the module is cast.
    """

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LogMelConfig()
        self.spectrogram = _Constant("window", torch.hann_window(config.n_fft))
        self.mel_scale = _Constant("fb", mel_filterbank(config))

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    def forward(self, audio: Tensor) -> Tensor:
        """audio: (..., samples) in [-1, 1], more than 768 samples -> (..., n_mels, samples // hop_length) float32"""
        with torch.autocast(device_type=audio.device.type, enabled=False):
            mel: Tensor = self.mel_scale().T @ self.magnitudes(audio)
            return mel.clamp(min=_MEL_FLOOR).log()

    def magnitudes(self, audio: Tensor) -> Tensor:
        """audio: (..., samples) -> sqrt(|STFT|^2 + 1e-6), (..., n_fft / 2 + 1, samples // hop_length) float32"""
        size, hop = self.config.n_fft, self.config.hop_length
        flat = audio.float().reshape(-1, audio.shape[-1])
        padded = F.pad(flat, ((size - hop) // 2, (size - hop + 1) // 2), mode="reflect")
        spectrum = torch.stft(
            padded, size, hop_length=hop, window=self.spectrogram(), center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (power + _MAGNITUDE_FLOOR).sqrt().reshape(*audio.shape[:-1], *spectrum.shape[-2:])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Follow a move to another device, and no cast: a rounded window would change every mel."""

        def keep_precision(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if buffer.is_meta or moved.dtype == buffer.dtype else buffer.to(moved.device)

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]
        return self


class _Constant(nn.Module):
    """One buffer under the name that the checkpoint has for it."""

    def __init__(self, name: str, value: Tensor) -> None:
        super().__init__()
        self.name = name
        self.register_buffer(name, value)

    def forward(self) -> Tensor:
        return self.get_buffer(self.name)


def mel_filterbank(config: LogMelConfig) -> Tensor:
    """Triangles on the Slaney mel scale, each divided by its width: (n_fft / 2 + 1, n_mels) float32."""
    bins = torch.linspace(0, config.sampling_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
    corners = torch.linspace(_hz_to_mel(config.f_min), _hz_to_mel(config.f_max), config.n_mels + 2, dtype=torch.float64)
    edges = _mel_to_hz(corners)
    rising = (bins.unsqueeze(1) - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins.unsqueeze(1)) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (edges[2:] - edges[:-2])).float()


# Slaney's scale: 3 mels for each 200 Hz up to 1000 Hz, logarithmic above with 27 mels for a factor of 6.4.
_HZ_PER_MEL = 200 / 3
_LOG_FROM_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _HZ_PER_MEL
    return _LOG_FROM_HZ / _HZ_PER_MEL + math.log(hz / _LOG_FROM_HZ) / _LOG_STEP


def _mel_to_hz(mels: Tensor) -> Tensor:
    log_from = _LOG_FROM_HZ / _HZ_PER_MEL
    return torch.where(mels < log_from, mels * _HZ_PER_MEL, _LOG_FROM_HZ * torch.exp((mels - log_from) * _LOG_STEP))
