"""The one-dimensional ConvNeXt block (Liu et al. 2022, arXiv:2201.03545) that the vocoder is built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NORM_EPS = 1e-6


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution of 7 frames, norm, two linear layers with GELU between, a gain a channel, and the input."""

    def __init__(self, dim: int, hidden: int, *, gain: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.pwconv1 = nn.Linear(dim, hidden)
        self.pwconv2 = nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.full((dim,), gain))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dim, frames) -> the same"""
        normed = self.norm(self.dwconv(x).transpose(1, 2))
        widened: Tensor = self.gamma * self.pwconv2(F.gelu(self.pwconv1(normed)))
        return x + widened.transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, frames)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
