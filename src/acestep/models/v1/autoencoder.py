"""The v1 music autoencoder: stereo log-mel to latents of an eighth of its size, and back.

A deep compression autoencoder (Chen et al. 2024, arXiv:2410.10733) with EfficientViT blocks at its narrowest level
(Cai et al. 2022, arXiv:2205.14756). Config keys and tensor names are those of diffusers' AutoencoderDC, which reads the
same files; importing it takes longer (3 s) than a song of the embedded model, so the networks are written out here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import CheckpointError
from acestep.models.v1.attention import relu_linear_attention
from acestep.models.v1.windows import in_windows

_NORM_EPS = 1e-5
_FIXED = {"decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "decoder_conv_act_fn": "relu"}


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes under the names of the released `config.json`, and the constants around the network.

    Log-mels are mapped from mel_min..mel_max to -1..1, not clamped; latents are (encoded - latent_shift) *
    latent_scale. The released `scaling_factor` is read by nothing.
    """

    in_channels: int = 2
    latent_channels: int = 8
    attention_head_dim: int = 32
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 1024)
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 1024)
    encoder_block_types: tuple[str, ...] = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    decoder_block_types: tuple[str, ...] = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock")
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (5,), (5,))
    downsample_block_type: str = "Conv"
    upsample_block_type: str = "interpolate"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    mel_min: float = -11.0
    mel_max: float = 3.0
    latent_shift: float = -1.9091
    latent_scale: float = 0.1786

    @property
    def compression(self) -> int:
        """Mel frames (and bands) that become one latent frame (and row)."""
        return 1 << (len(self.encoder_block_out_channels) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AutoencoderConfig:
        """Read a `config.json`, passing unknown keys over; CheckpointError for settings that this network lacks."""
        for key, only in _FIXED.items():
            found = config.get(key, only)
            if set([found] if isinstance(found, str) else found) != {only}:
                raise CheckpointError(
                    f"the autoencoder's config.json says {key} = {found!r}; only {only!r} is supported"
                )
        values = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        for side, levels in (("encoder", "encoder_block_out_channels"), ("decoder", "decoder_block_out_channels")):
            kind = values.get(f"{side}_block_types")
            if isinstance(kind, str):
                values[f"{side}_block_types"] = (kind,) * len(values.get(levels, getattr(cls, levels)))
        return cls(**{name: _as_tuples(value) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` should hold so that `from_dict` gives this config back."""
        return {"_class_name": "AutoencoderDC", **asdict(self)}


class MusicAutoencoder(nn.Module):
    """Log-mel (batch, 2, 128, frames) to latents (batch, 8, 16, frames / 8), and back.

    With window_frames the convolutions at the finer levels take that many mel frames at a time. At full size 4
    minutes at once make tensors of 1.4 GB; the attention, at the coarsest level, always sees everything.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; inputs are cast to it, results are float32."""
        return next(self.parameters()).dtype

    def encode(self, mel: Tensor, *, window_frames: int | None = None) -> Tensor:
        """mel: natural log, (batch, 2, 128, frames), frames a multiple of 8 -> (batch, 8, 16, frames / 8) float32"""
        config = self.config
        normalised = (mel - config.mel_min) / (config.mel_max - config.mel_min) * 2 - 1
        encoded: Tensor = self.encoder(normalised.to(self.dtype), window=window_frames).float()
        return (encoded - config.latent_shift) * config.latent_scale

    def decode(self, latents: Tensor, *, window_frames: int | None = None) -> Tensor:
        """latents: (batch, 8, 16, frames) -> natural-log mel (batch, 2, 128, 8 * frames) float32"""
        config = self.config
        encoded = latents / config.latent_scale + config.latent_shift
        window = None if window_frames is None else -(-window_frames // config.compression)
        decoded: Tensor = self.decoder(encoded.to(self.dtype), window=window).float()
        return (decoded * 0.5 + 0.5) * (config.mel_max - config.mel_min) + config.mel_min


class Encoder(nn.Module):
    """Mel to latents before normalisation; each level halves height and width."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, depths = config.encoder_block_out_channels, config.encoder_layers_per_block
        unshuffle = config.downsample_block_type == "pixel_unshuffle"
        # A first level without blocks is left at once: the input is halved by the first convolution.
        self.conv_in: nn.Module = (
            nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
            if depths[0] > 0
            else Downsample(config.in_channels, channels[1], unshuffle=unshuffle, shortcut=False)
        )
        self.down_blocks = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            kind, kernels = config.encoder_block_types[level], config.encoder_qkv_multiscales[level]
            layers = [build_block(kind, width, config.attention_head_dim, kernels) for _ in range(depth)]
            if level + 1 < len(channels) and depth > 0:
                layers.append(Downsample(width, channels[level + 1], unshuffle=unshuffle))
            self.down_blocks.append(nn.Sequential(*layers))
        self.conv_out = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)
        self.shortcut = config.encoder_out_shortcut

    def forward(self, mel: Tensor, *, window: int | None = None) -> Tensor:
        """mel: (batch, 2, 128, frames); window: mel frames at a time, None for all -> (batch, 8, 16, frames / 8)"""
        local = _count_local(self.down_blocks)
        first_levels = nn.Sequential(self.conv_in, *self.down_blocks[:local])
        if window is None:
            x: Tensor = first_levels(mel)
        else:
            halo, scale = _reach_and_scale(first_levels)
            x = in_windows(first_levels, mel, window=window, halo=halo, scale=scale)
        for block in self.down_blocks[local:]:
            x = block(x)
        encoded: Tensor = self.conv_out(x)
        return encoded + average_channels(x, encoded.shape[1]) if self.shortcut else encoded


class Decoder(nn.Module):
    """Latents before normalisation to mel; `up_blocks` are numbered as the encoder's levels, and run from the last."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, depths = config.decoder_block_out_channels, config.decoder_layers_per_block
        shuffle = config.upsample_block_type == "pixel_shuffle"
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.up_blocks = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            kind, kernels = config.decoder_block_types[level], config.decoder_qkv_multiscales[level]
            layers: list[nn.Module] = []
            if level + 1 < len(channels) and depth > 0:
                layers.append(Upsample(channels[level + 1], width, shuffle=shuffle))
            layers += [build_block(kind, width, config.attention_head_dim, kernels) for _ in range(depth)]
            self.up_blocks.append(nn.Sequential(*layers))
        last = channels[0] if depths[0] > 0 else channels[1]
        self.norm_out = ChannelRMSNorm(last)
        self.conv_out: nn.Module = (
            nn.Conv2d(last, config.in_channels, 3, padding=1)
            if depths[0] > 0
            else Upsample(last, config.in_channels, shuffle=shuffle, shortcut=False)
        )
        self.shortcut = config.decoder_in_shortcut

    def forward(self, encoded: Tensor, *, window: int | None = None) -> Tensor:
        """encoded: (batch, 8, 16, frames); window: latent frames at a time or None -> (batch, 2, 128, 8 * frames)"""
        x: Tensor = self.conv_in(encoded)
        if self.shortcut:
            x = x + repeat_channels(encoded, x.shape[1])
        local = _count_local(self.up_blocks)
        for block in reversed(self.up_blocks[local:]):
            x = block(x)
        last_levels = nn.Sequential(*reversed(self.up_blocks[:local]), self.norm_out, nn.ReLU(), self.conv_out)
        if window is None:
            mel: Tensor = last_levels(x)
            return mel
        halo, scale = _reach_and_scale(last_levels)
        return in_windows(last_levels, x, window=window * x.shape[-1] // encoded.shape[-1], halo=halo, scale=scale)


class ChannelRMSNorm(nn.Module):
    """Root-mean-square norm over the channels at each point, with a weight and a bias a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same"""
        level = x.float().square().mean(dim=1, keepdim=True).add(_NORM_EPS).rsqrt().to(x.dtype)
        return x * level * self.weight[:, None, None] + self.bias[:, None, None]


class ResBlock(nn.Module):
    """x + norm(conv(SiLU(conv(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.norm(self.conv2(F.silu(self.conv1(x))))
        return x + change


class EfficientViTBlock(nn.Module):
    """Linear attention over all points, then a gated convolution."""

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.attn = MultiscaleLinearAttention(channels, head_dim, kernels)
        self.conv_out = GatedConv2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv_out(self.attn(x))
        return mixed


class MultiscaleLinearAttention(nn.Module):
    """ReLU linear attention over height and width, on the projections and on convolved copies of them.

    The heads are cut from [q | k | v] as one run of channels, so a head's "key" may lie among the query channels. The
    released weights were trained that way.
    """

    def __init__(self, channels: int, head_dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_qkv_multiscale = nn.ModuleList(
            MultiscaleProjection(3 * channels, kernel, groups=3 * channels // head_dim) for kernel in kernels
        )
        self.to_out = nn.Linear(channels * (1 + len(kernels)), channels, bias=False)
        self.norm_out = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same"""
        points = x.movedim(1, -1)
        projected = torch.cat([self.to_q(points), self.to_k(points), self.to_v(points)], dim=-1).movedim(-1, 1)
        scales = torch.cat([projected, *(scale(projected) for scale in self.to_qkv_multiscale)], dim=1)
        with torch.autocast(device_type=x.device.type, enabled=False):
            heads = scales.float().reshape(len(x), -1, 3 * self.head_dim, x.shape[2] * x.shape[3]).transpose(-1, -2)
            mixed = relu_linear_attention(*heads.chunk(3, dim=-1))
        mixed = mixed.transpose(1, 2).flatten(2).to(x.dtype)
        attended = self.to_out(mixed).transpose(1, 2).reshape(x.shape)
        change: Tensor = self.norm_out(attended)
        return x + change


class MultiscaleProjection(nn.Module):
    """A depthwise convolution and a grouped mix of its channels, without biases."""

    def __init__(self, channels: int, kernel: int, *, groups: int) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.proj_out(self.proj_in(x))
        return projected


class GatedConv2d(nn.Module):
    """x + norm(narrow(a * SiLU(g))), where a, g = depthwise(SiLU(widen(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 8 * channels
        self.conv_inverted = nn.Conv2d(channels, hidden, 1)
        self.conv_depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.conv_point = nn.Conv2d(hidden // 2, channels, 1, bias=False)
        self.norm = ChannelRMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv_depth(F.silu(self.conv_inverted(x))).chunk(2, dim=1)
        change: Tensor = self.norm(self.conv_point(value * F.silu(gate)))
        return x + change


class Downsample(nn.Module):
    """Half the height and width: a strided convolution (or one before a pixel unshuffle), beside a plain average."""

    def __init__(self, in_channels: int, out_channels: int, *, unshuffle: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.shortcut = shortcut
        self.out_channels = out_channels
        conv_channels, stride = (out_channels // 4, 1) if unshuffle else (out_channels, 2)
        self.conv = nn.Conv2d(in_channels, conv_channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(x)
        if self.unshuffle:
            halved = F.pixel_unshuffle(halved, 2)
        if self.shortcut:
            halved = halved + average_channels(F.pixel_unshuffle(x, 2), self.out_channels)
        return halved


class Upsample(nn.Module):
    """Twice the height and width: a convolution of the enlarged map (or one before a pixel shuffle), beside a copy."""

    def __init__(self, in_channels: int, out_channels: int, *, shuffle: bool, shortcut: bool = True) -> None:
        super().__init__()
        self.shuffle = shuffle
        self.shortcut = shortcut
        self.out_channels = out_channels
        self.conv = nn.Conv2d(in_channels, 4 * out_channels if shuffle else out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor
        if self.shuffle:
            doubled = F.pixel_shuffle(self.conv(x), 2)
        else:
            doubled = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        if self.shortcut:
            doubled = doubled + F.pixel_shuffle(repeat_channels(x, 4 * self.out_channels), 2)
        return doubled


def build_block(kind: str, channels: int, head_dim: int, kernels: tuple[int, ...]) -> nn.Module:
    """One block of the kind that the config names; raises CheckpointError for a kind that does not exist."""
    if kind == "ResBlock":
        return ResBlock(channels)
    if kind == "EfficientViTBlock":
        return EfficientViTBlock(channels, head_dim, kernels)
    raise CheckpointError(
        f"the autoencoder's config.json asks for blocks of kind {kind!r}; ResBlock and EfficientViTBlock exist"
    )


def average_channels(x: Tensor, channels: int) -> Tensor:
    """Mean of consecutive groups, so that `channels` are left. x: (batch, many, height, width)"""
    return x.reshape(len(x), channels, -1, *x.shape[2:]).mean(dim=2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Each channel several times in a row, until there are `channels`. x: (batch, few, height, width)"""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def _count_local(levels: nn.ModuleList) -> int:
    """How many levels from the finest on have no attention, so that a window is enough for them."""
    for index, level in enumerate(levels):
        if any(isinstance(module, EfficientViTBlock) for module in level.modules()):
            return index
    return len(levels)


def _reach_and_scale(network: nn.Module) -> tuple[int, Fraction]:
    """Input frames to each side that an output depends on, at most, and output frames for each input frame.

    Every convolution sees one frame to each side at its own scale; one frame more is for shuffled ones, which work
    before the scale changes.
    """
    reach, scale = Fraction(1), Fraction(1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            reach += 1 / scale
        elif isinstance(module, Upsample):
            scale *= 2
        elif isinstance(module, Downsample):
            scale /= 2
    return math.ceil(reach), scale


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
