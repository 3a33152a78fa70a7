"""The v1 diffusion transformer: noisy latents, a timestep and an encoded prompt to velocity.

Blocks of ReLU linear attention, softmax cross attention and a gated convolution, modulated by the timestep (adaptive
norms as in PixArt-alpha, arXiv:2310.00426; the block's body as in Sana, arXiv:2410.10629). Module names are those of
the released checkpoint. Parameters that it stores and never reads are left out; `unread_names` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acestep.models.v1.alignment_heads import alignment_names
from acestep.models.v1.attention import CrossAttention, LinearSelfAttention, QueryFactor
from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.convolution import DepthwiseConv1d, PointwiseConv1d
from acestep.models.v1.encoded import CrossAttentionCache, EncodedConditioning
from acestep.models.v1.lyric_encoder import LyricEncoder
from acestep.models.v1.rotary import RotaryTables, rotary_tables

_TIME_FEATURES = 256
_NORM_EPS = 1e-6


class ACEStepTransformer(nn.Module):
    """Velocity of the latents under a prompt.

    `gradient_checkpointing = True` keeps one tensor a block for the backward pass and computes the rest again: at full
    size 3 MB instead of 230 MB a block for a minute of music and a LoRA of rank 32 on all its layers, in bfloat16.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self._gradient_checkpointing = False
        width = config.width
        self.proj_in = PatchEmbedding(config)
        self.timestep_embedder = TimestepEmbedding(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.speaker_embedder = nn.Linear(config.speaker_embedding_dim, width)
        self.genre_embedder = nn.Linear(config.text_embedding_dim, width)
        self.lyric_embs = nn.Embedding(config.lyric_encoder_vocab_size, config.lyric_hidden_size)
        self.lyric_encoder = LyricEncoder(
            config.lyric_hidden_size,
            config.lyric_encoder_output_size,
            heads=config.lyric_encoder_attention_heads,
            units=config.lyric_encoder_linear_units,
            layers=config.lyric_encoder_num_blocks,
            dropout=config.lyric_encoder_dropout,
        )
        self.lyric_proj = nn.Linear(config.lyric_encoder_output_size, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    @property
    def gradient_checkpointing(self) -> bool:
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enabled: bool) -> None:
        self._gradient_checkpointing = enabled
        self.lyric_encoder.gradient_checkpointing = enabled

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; inputs are cast to it, and the velocity is cast back."""
        return self.final_layer.scale_shift_table.dtype

    def encode_lyrics(
        self, lyric_ids: Tensor, lyric_mask: Tensor, *, query_scale: Mapping[int, QueryFactor] | None = None
    ) -> Tensor:
        """Lyric states (batch, lyrics, lyric_encoder_output_size); arguments as for `encode_conditioning`.

        Tokens that count have the states that they would have without the padding behind them.
        """
        states: Tensor = self.lyric_encoder(self.lyric_embs(lyric_ids), lyric_mask, query_scale=query_scale)
        return states

    def encode_conditioning(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        speaker: Tensor,
        lyric_ids: Tensor,
        lyric_mask: Tensor,
        *,
        lyric_states: Tensor | None = None,
        lyric_query_scale: Mapping[int, QueryFactor] | None = None,
    ) -> EncodedConditioning:
        """One sequence of 1 + text + lyric tokens; the speaker's token comes first and always counts, zero or not.

        text_states: (batch, text, text_embedding_dim); text_mask: (batch, text); speaker: (batch,
        speaker_embedding_dim); lyric_ids: (batch, lyrics) int64; lyric_mask: (batch, lyrics). Masks are nonzero where a
        token counts.
        lyric_states: what `encode_lyrics` gave for these ids before, so that the lyric encoder need not run; padded
        with any finite numbers.
        lyric_query_scale: factors on the queries of the lyric layers named (ERG weakens layers 4 and 5 to 0.01).
        """
        if lyric_states is None:
            lyric_states = self.encode_lyrics(lyric_ids, lyric_mask, query_scale=lyric_query_scale)
        speaker_token = self.speaker_embedder(speaker.to(self.dtype)).unsqueeze(1)
        text = self.genre_embedder(text_states.to(self.dtype))
        states = torch.cat([speaker_token, text, self.lyric_proj(lyric_states.to(self.dtype))], dim=1)
        speaker_mask = torch.ones_like(text_mask[:, :1], dtype=torch.bool)
        return EncodedConditioning(states, torch.cat([speaker_mask, text_mask.bool(), lyric_mask.bool()], dim=1))

    def cross_attention_cache(self, encoded: EncodedConditioning) -> CrossAttentionCache:
        """Keys and values of all blocks, which depend on the prompt alone: compute them once, use them at each step."""
        rotary = self._rotary(encoded.states.shape[1], encoded.states.device)
        pairs = [block.cross_attn.keys_and_values(encoded.states, rotary) for block in self._blocks()]
        keys, values = zip(*pairs, strict=True)
        return CrossAttentionCache(keys, values, encoded.mask)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditioning: EncodedConditioning | CrossAttentionCache,
        *,
        frame_mask: Tensor | None = None,
        query_scale: Mapping[int, QueryFactor] | None = None,
    ) -> Tensor:
        """Velocity, as latents in shape and dtype.

        latents: (batch, 8, 16, frames); timesteps: (batch,), 0 to 1000; frame_mask: (batch, frames), 1 where a frame is
        real, None when all are. The released model was trained and run without padding, and its input norm looks at all
        frames, so padding changes every frame a little.
        query_scale: factors on the queries of the blocks named, in both attentions (ERG weakens blocks 15 to 19 to 0.01
        for the null pass); a tensor (batch,) gives each item its own.
        """
        velocity, _ = self._run(latents, timesteps, conditioning, frame_mask, query_scale, tapped=())
        return velocity

    def forward_with_states(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditioning: EncodedConditioning | CrossAttentionCache,
        *,
        depths: Sequence[int],
        frame_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Velocity, and the residual stream (batch, frames, width) after each block in `depths`, counted from 0."""
        velocity, states = self._run(latents, timesteps, conditioning, frame_mask, None, tapped=depths)
        return velocity, tuple(states[depth] for depth in depths)

    def _run(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditioning: EncodedConditioning | CrossAttentionCache,
        frame_mask: Tensor | None,
        query_scale: Mapping[int, QueryFactor] | None,
        *,
        tapped: Sequence[int],
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The whole pass; also the residual stream after the blocks in `tapped`."""
        x = self.proj_in(latents.to(self.dtype))
        embedded_time = self.timestep_embedder(timesteps.expand(len(latents)), x.dtype)
        modulation = self.t_block(embedded_time)
        frame_rotary = self._rotary(x.shape[1], x.device)
        token_rotary = self._rotary(conditioning.mask.shape[1], x.device)
        query_scale = query_scale or {}
        states: dict[int, Tensor] = {}
        last = len(self.transformer_blocks) - 1
        for index, block in enumerate(self.transformer_blocks):
            context = (
                (conditioning.keys[index], conditioning.values[index])
                if isinstance(conditioning, CrossAttentionCache)
                else conditioning.states
            )
            factor = query_scale.get(index)
            arguments = (x, modulation, context, conditioning.mask, frame_rotary, token_rotary, frame_mask, factor)
            # The backward pass starts with the last block, which would only be computed twice in a row.
            if self._gradient_checkpointing and torch.is_grad_enabled() and index < last:
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
            if index in tapped:
                states[index] = x
        velocity: Tensor = self.final_layer(x, embedded_time)
        return velocity.to(latents.dtype), states

    def _rotary(self, length: int, device: torch.device) -> RotaryTables:
        return rotary_tables(length, self.config.attention_head_dim, self.config.rope_theta, device)

    def _blocks(self) -> list[TransformerBlock]:
        return list(self.transformer_blocks)  # type: ignore[arg-type]


class PatchEmbedding(nn.Module):
    """Each latent frame, all heights at once, to one token. Its group norm takes statistics over the whole length."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, patch = config.patch_hidden_channels, config.patch_size
        self.early_conv_layers = nn.Sequential(
            PatchConv(config.in_channels, hidden, kernel_size=patch, stride=patch),
            nn.GroupNorm(32, hidden, eps=_NORM_EPS),
            nn.Conv2d(hidden, config.width, kernel_size=1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(batch, channels, height, frames) -> (batch, frames, width)"""
        tokens: Tensor = self.early_conv_layers(latents)
        return tokens.flatten(2).transpose(1, 2)


class PatchConv(nn.Conv2d):
    """A convolution over patches that do not overlap, computed as the matrix product that it is.

    torch 2.13's own bfloat16 convolution with v1's kernel and 256 channels or more returns wrong numbers on CPUs with
    AMX: a relative error of 1.1, where 0.002 is right.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, frames) -> (batch, out channels, height / kernel height, frames)"""
        height = self.kernel_size[0]
        columns = input.reshape(*input.shape[:2], -1, height, input.shape[-1]).permute(0, 2, 4, 1, 3).flatten(3)
        return F.linear(columns, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep (0 to 1000, not divided) through two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_TIME_FEATURES, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """(batch,) -> (batch, width)"""
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(timestep_features(timesteps).to(dtype))))
        return embedded


class GatedConvolution(nn.Module):
    """The feed-forward: widen, look one frame to each side, gate, narrow. Padding is not masked and leaks one frame."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inverted_conv = ConvLayer(PointwiseConv1d(width, 2 * hidden, kernel_size=1))
        self.depth_conv = ConvLayer(
            DepthwiseConv1d(2 * hidden, 2 * hidden, kernel_size=3, padding=1, groups=2 * hidden)
        )
        self.point_conv = ConvLayer(PointwiseConv1d(hidden, width, kernel_size=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, width) -> the same"""
        hidden = F.silu(self.inverted_conv(x.transpose(1, 2)))
        # Cut with the channels last, as they lie in memory, so that the gradients of the halves come back as such.
        value, gate = self.depth_conv(hidden).transpose(1, 2).chunk(2, dim=-1)
        narrowed: Tensor = self.point_conv((value * F.silu(gate)).transpose(1, 2))
        return narrowed.transpose(1, 2)


class ConvLayer(nn.Module):
    """A convolution one level down, where the checkpoint's names have it."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x)
        return convolved


class TransformerBlock(nn.Module):
    """Self attention and feed-forward under the timestep's shift, scale and gate; cross attention without any."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(nn.init.normal_(torch.empty(6, width), std=1 / math.sqrt(width)))
        self.attn = LinearSelfAttention(width, config.num_attention_heads)
        self.cross_attn = CrossAttention(width, config.num_attention_heads)
        self.ff = GatedConvolution(width, config.feed_forward_width)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        context: Tensor | tuple[Tensor, Tensor],
        token_mask: Tensor,
        frame_rotary: RotaryTables,
        token_rotary: RotaryTables,
        frame_mask: Tensor | None,
        query_factor: QueryFactor | None,
    ) -> Tensor:
        """x: (batch, frames, width); modulation: (batch, 6 width); context: encoded states, or keys and values made of
        them -> (batch, frames, width)"""
        table = self.scale_shift_table + modulation.reshape(len(x), 6, -1)
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = table.unsqueeze(2).unbind(1)
        normed = modulate(rms_norm(x), shift_attn, scale_attn)
        x = torch.addcmul(x, gate_attn, self.attn(normed, frame_rotary, frame_mask, query_factor))
        if isinstance(context, Tensor):
            context = self.cross_attn.keys_and_values(context, token_rotary)
        x = x + self.cross_attn(x, context, token_mask, frame_rotary, frame_mask, query_factor)
        transformed: Tensor = self.ff(modulate(rms_norm(x), shift_ff, scale_ff))
        return torch.addcmul(x, gate_ff, transformed)


class FinalLayer(nn.Module):
    """Norm, the timestep's shift and scale, and a linear layer back to latents."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.out_channels = config.out_channels
        table = torch.empty(2, config.width)
        self.scale_shift_table = nn.Parameter(nn.init.normal_(table, std=1 / math.sqrt(config.width)))
        self.linear = nn.Linear(config.width, math.prod(config.patch_size) * config.out_channels)

    def forward(self, x: Tensor, embedded_time: Tensor) -> Tensor:
        """x: (batch, frames, width); embedded_time: (batch, width) -> (batch, channels, height, frames)"""
        shift, scale = (self.scale_shift_table + embedded_time.unsqueeze(1)).unsqueeze(2).unbind(1)
        values: Tensor = self.linear(modulate(rms_norm(x), shift, scale))
        # The channel runs fastest in the layer's output, the height after it.
        return values.reshape(*values.shape[:-1], -1, self.out_channels).permute(0, 3, 2, 1)


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-6) over the last axis, without weights."""
    return F.rms_norm(x, x.shape[-1:], eps=_NORM_EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def timestep_features(timesteps: Tensor) -> Tensor:
    """[cos(t w_0..), sin(t w_0..)] with w_i = 10000^(-i / 128). timesteps: (batch,) -> (batch, 256) float32"""
    half = _TIME_FEATURES // 2
    exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    angles = timesteps.float().unsqueeze(1) * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def unread_names(config: TransformerConfig) -> frozenset[str]:
    """Tensors that a released checkpoint stores and this model does not own, because its forward never reads them.

    They are the joint-attention projections of every block (630 million of the 3.3 billion numbers) and the projectors
    of the alignment losses (`alignment_heads.AlignmentHeads`).
    """
    joint = {
        f"transformer_blocks.{block}.cross_attn.{module}.{kind}"
        for block in range(config.num_layers)
        for module in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        for kind in ("weight", "bias")
    }
    return frozenset(joint | set(alignment_names(config)))
