"""The v1 vocoder: a ConvNeXt backbone at the mel rate, then a HiFi-GAN head (Kong et al. 2020, arXiv:2010.05646)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.models.v1.convnext import ChannelNorm, ConvNeXtBlock


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes under the names of the released `config.json`."""

    input_channels: int = 128
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (128, 256, 384, 512)
    upsample_rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (8, 8, 4, 4, 4, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11, 13)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 4
    upsample_initial_channel: int = 1024
    pre_conv_kernel_size: int = 13
    post_conv_kernel_size: int = 13

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VocoderConfig:
        """Read a `config.json`; keys that the model has no use for are passed over."""
        return cls(**{field.name: _as_tuples(config[field.name]) for field in fields(cls) if field.name in config})

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` should hold so that `from_dict` gives this config back."""
        return {"_class_name": "ADaMoSHiFiGANV1", **asdict(self)}


class Vocoder(nn.Module):
    """Log-mel to waveform."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = math.prod(config.upsample_rates)
        self.backbone = Backbone(config)
        self.head = HiFiGANHead(config)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; the mel is cast to it."""
        return self.backbone.norm.weight.dtype

    @property
    def halo_frames(self) -> int:
        """Mel frames to each side that a sample can depend on: windows overlapping by these leave no trace."""
        config = self.config
        reach = 3.0 * (1 + sum(config.depths)) + config.pre_conv_kernel_size // 2
        samples_per_frame = 1
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            reach += kernel / rate / samples_per_frame
            samples_per_frame *= rate
            reach += max(
                (size // 2) * (sum(dilations) + len(dilations)) / samples_per_frame
                for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            )
        return math.ceil(reach + config.post_conv_kernel_size / 2 / samples_per_frame)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (batch, 128, frames) natural log -> (batch, 1, frames * hop_length) float32 in [-1, 1]"""
        audio: Tensor = self.head(self.backbone(mel.to(self.dtype)))
        return audio.float()

    def fold_weight_norm(self) -> Vocoder:
        """Replace norm-and-direction weights by their product, in place: the same sound with less work a call.

        Not to be trained afterwards; the state dict then has `weight` for the released `weight_g` and `weight_v`.
        """
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, WeightNormConv1d):
                    setattr(module, name, child.folded())
        return self


class Backbone(nn.Module):
    """Four stages of ConvNeXt blocks, all at the mel rate."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        dims = config.dims
        stem = nn.Conv1d(config.input_channels, dims[0], kernel_size=7, padding=3, padding_mode="replicate")
        self.channel_layers = nn.ModuleList([nn.Sequential(stem, ChannelNorm(dims[0]))])
        for narrow, wide in pairwise(dims):
            self.channel_layers.append(nn.Sequential(ChannelNorm(narrow), nn.Conv1d(narrow, wide, kernel_size=1)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim, 4 * dim) for _ in range(depth)))
            for dim, depth in zip(dims, config.depths, strict=True)
        )
        self.norm = ChannelNorm(dims[-1])

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, 128, frames) -> (batch, dims[-1], frames)"""
        x = mel
        for layer, stage in zip(self.channel_layers, self.stages, strict=True):
            x = stage(layer(x))
        normed: Tensor = self.norm(x)
        return normed


class HiFiGANHead(nn.Module):
    """Upsampling by transposed convolutions, each followed by the mean of residual blocks of several kernel sizes."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        channels = config.upsample_initial_channel
        self.conv_pre = WeightNormConv1d(config.dims[-1], channels, config.pre_conv_kernel_size)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(WeightNormConv1d(channels, channels // 2, kernel, upsampling=rate))
            channels //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(channels, size, dilations))
        self.blocks_per_rate = len(config.resblock_kernel_sizes)
        self.conv_post = WeightNormConv1d(channels, 1, config.post_conv_kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, dims[-1], frames) -> (batch, 1, frames * hop_length)"""
        x = self.conv_pre(x)
        for index, up in enumerate(self.ups):
            x = up(F.silu(x))
            first = index * self.blocks_per_rate
            total = self.resblocks[first](x)
            for block in list(self.resblocks)[first + 1 : first + self.blocks_per_rate]:
                total = total + block(x)
            x = total / self.blocks_per_rate
        return torch.tanh(self.conv_post(F.silu(x)))


class ResidualBlock(nn.Module):
    """For each dilation: x += conv(SiLU(dilated conv(SiLU(x))))."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            WeightNormConv1d(channels, channels, kernel, dilation=dilation) for dilation in dilations
        )
        self.convs2 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.silu(dilated(F.silu(x))))
        return x


class WeightNormConv1d(nn.Module):
    """A convolution whose weight is weight_g * weight_v / |weight_v|, one norm along dimension 0 (arXiv:1602.07868).

    With `upsampling` it is transposed, and dimension 0 counts its input channels. Padding keeps frames * upsampling.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, upsampling: int | None = None
    ) -> None:
        super().__init__()
        self.dilation = dilation
        self.upsampling = upsampling
        self.padding = dilation * (kernel - 1) // 2 if upsampling is None else (kernel - upsampling) // 2
        shape = (out_channels, in_channels) if upsampling is None else (in_channels, out_channels)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_g = nn.Parameter(torch.empty(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.empty(*shape, kernel))
        nn.init.normal_(self.weight_v, std=0.01)
        with torch.no_grad():
            self.weight_g.copy_(self.weight_v.norm(dim=(1, 2), keepdim=True))

    @property
    def weight(self) -> Tensor:
        direction: Tensor = self.weight_v / self.weight_v.norm(dim=(1, 2), keepdim=True)
        return self.weight_g * direction

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, frames) -> (batch, out_channels, frames * upsampling)"""
        if self.upsampling is None:
            return F.conv1d(x, self.weight, self.bias, padding=self.padding, dilation=self.dilation)
        return F.conv_transpose1d(x, self.weight, self.bias, stride=self.upsampling, padding=self.padding)

    def folded(self) -> nn.Module:
        """The same map as a plain convolution."""
        conv: nn.Conv1d | nn.ConvTranspose1d
        size, device, dtype = self.weight_v.shape, self.weight_v.device, self.weight_v.dtype
        with torch.device(device):
            if self.upsampling is None:
                conv = nn.Conv1d(size[1], size[0], size[2], padding=self.padding, dilation=self.dilation)
            else:
                conv = nn.ConvTranspose1d(size[0], size[1], size[2], stride=self.upsampling, padding=self.padding)
        with torch.no_grad():
            conv.to(dtype).weight.copy_(self.weight)
            assert conv.bias is not None
            conv.bias.copy_(self.bias)
        return conv


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
