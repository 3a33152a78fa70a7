"""Waveform from a complex spectrogram: windowed inverse FFTs, added where they overlap."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
