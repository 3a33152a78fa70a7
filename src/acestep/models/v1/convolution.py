"""One-dimensional convolutions that keep (batch, frames, channels) in memory.

Convolutions take (batch, channels, frames); the transformer's states are the other way round. These accept a transposed
view, compute in its own layout and return one, so nothing is copied, which makes the feed-forward on a CPU about three
times as fast as `nn.Conv1d`. They stay subclasses of it: PEFT builds a LoRA's factors from a layer's class.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv1d(nn.Conv1d):
    """A convolution of one frame, computed as the linear layer that it is."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames)"""
        return F.linear(x.transpose(1, 2), self.weight.squeeze(-1), self.bias).transpose(1, 2)


class DepthwiseConv1d(nn.Conv1d):
    """A convolution within each channel, as a two-dimensional one, which has kernels for channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames) -> the same"""
        padding = (0, int(self.padding[0]))
        convolved = F.conv2d(x.unsqueeze(2), self.weight.unsqueeze(2), self.bias, padding=padding, groups=self.groups)
        return convolved.squeeze(2)
