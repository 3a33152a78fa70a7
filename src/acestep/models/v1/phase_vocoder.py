"""A vocoder without weights: magnitudes from the mel, phases that run on from frame to frame.

A small network that sees only a mel cannot know how far a held note's phase has come, and repeats itself at every hop:
a hum at the frame rate, 86 Hz and its multiples. Here each spectral peak's frequency is read off its neighbours and its
phase advanced by that much a hop (single-pass spectrogram inversion, Beauregard et al. 2015); a few rounds of fast
Griffin-Lim (Perraudin et al. 2013) then make neighbouring frames agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from acestep.models.v1.inverse_stft import inverse_stft
from acestep.models.v1.log_mel import LogMelConfig, mel_filterbank

_SMALLEST_MAGNITUDE = 1e-5


@dataclass(frozen=True)
class PhaseVocoderConfig:
    """The spectrogram's numbers, and how much work is put into inverting it."""

    sampling_rate: int = 44100
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    f_min: float = 40.0
    f_max: float = 16000.0
    magnitude_steps: int = 10
    iterations: int = 4
    momentum: float = 0.99

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> PhaseVocoderConfig:
        """Read a `config.json`; keys that the vocoder has no use for are passed over."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` should hold so that `from_dict` gives this config back."""
        return {"_class_name": "PhaseVocoder", **asdict(self)}


class PhaseVocoder(nn.Module):
    """Log-mel to waveform, about ten times faster than real time on one core; n_fft must be a multiple of the hop."""

    filters: Tensor
    pseudo_inverse: Tensor
    window: Tensor

    def __init__(self, config: PhaseVocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = config.hop_length
        filters = mel_filterbank(LogMelConfig.from_dict(asdict(config)))
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("pseudo_inverse", torch.linalg.pinv(filters.T), persistent=False)
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)

    @property
    def halo_frames(self) -> None:
        """None: phases run on through the whole song, which therefore cannot be cut into windows."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        return self.window.dtype

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (batch, n_mels, frames) natural log -> (batch, 1, frames * hop_length) float32"""
        magnitude = self.magnitudes(mel.float())
        spectrum = torch.polar(magnitude, running_phases(magnitude, self.hop_length / self.config.n_fft))
        return self.agree(spectrum).unsqueeze(1)

    def magnitudes(self, mel: Tensor) -> Tensor:
        """Magnitudes whose mel is the given one, none negative, by multiplicative updates (Lee and Seung 2001).

        mel: (batch, n_mels, frames) -> (batch, n_fft / 2 + 1, frames)
        """
        target = mel.exp()
        magnitude = (self.pseudo_inverse @ target).clamp(min=_SMALLEST_MAGNITUDE)
        weight = self.filters.sum(dim=1, keepdim=True).clamp(min=1e-6)
        for _ in range(self.config.magnitude_steps):
            ratio = target / (self.filters.T @ magnitude).clamp(min=1e-6)
            magnitude = magnitude * ((self.filters @ ratio) / weight).clamp(0.2, 5.0)
        return magnitude

    def agree(self, spectrum: Tensor) -> Tensor:
        """Keep the magnitudes and take the phases of the waveform, a few times. -> (batch, samples)"""
        size, hop = self.config.n_fft, self.hop_length
        magnitude, edge = spectrum.abs(), (size - hop) // 2
        inertia, previous = self.config.momentum / (1 + self.config.momentum), None
        for _ in range(self.config.iterations):
            waveform = nn.functional.pad(inverse_stft(spectrum, self.window, hop), (edge, edge))
            heard = torch.fft.rfft(waveform.unfold(-1, size, hop) * self.window).transpose(1, 2)
            ahead = heard if previous is None else heard - inertia * previous
            previous = heard
            spectrum = magnitude * ahead / ahead.abs().clamp(min=1e-8)
        return inverse_stft(spectrum, self.window, hop)


def running_phases(magnitude: Tensor, hops_per_window: float) -> Tensor:
    """Phases that advance with each peak's own frequency; bins beside a peak follow it, every other one turned over.

    magnitude: (batch, bins, frames); hops_per_window: hop_length / n_fft -> (batch, bins, frames) in radians
    """
    batch, bins, _ = magnitude.shape
    log = magnitude.clamp(min=1e-7).log()
    below, here, above = log[:, :-2], log[:, 1:-1], log[:, 2:]
    peak = nn.functional.pad((here > below) & (here >= above), (0, 0, 1, 1))
    # The top of a parabola through a peak and its neighbours.
    curvature = (2 * here - below - above).clamp(min=1e-6)
    offset = nn.functional.pad((0.5 * (above - below) / curvature).clamp(-0.5, 0.5), (0, 0, 1, 1))
    index = torch.arange(bins, device=magnitude.device).view(1, -1, 1).expand_as(magnitude)
    under = torch.where(peak, index, -bins).cummax(dim=1).values
    over = torch.where(peak, index, 2 * bins).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where(index - under <= over - index, under, over).clamp(0, bins - 1)
    advance = 2 * math.pi * hops_per_window * (nearest + offset.gather(1, nearest))
    flipped = math.pi * ((index - nearest) % 2)
    # Golden-ratio steps start the bins apart from each other without a random generator.
    phase = (2 * math.pi * 0.618034 * torch.arange(bins, device=magnitude.device)).expand(batch, -1)
    phases = []
    for source, step in zip(nearest.unbind(-1), advance.unbind(-1), strict=True):
        phase = torch.remainder(phase.gather(1, source) + step, 2 * math.pi)
        phases.append(phase)
    return torch.stack(phases, dim=-1) + flipped
