"""The lyric encoder of v1: a pre-norm transformer with relative positions (Dai et al. 2019, arXiv:1901.02860).

No convolution, no causal mask. Its cost grows with the square of the number of lyric tokens; it runs once a song.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acestep.models.v1.attention import QueryFactor, scale_queries

SCORES_AT_ONCE = 1 << 25
"""Heads of long lyrics are attended one after the other, so that their scores by offset stay below 64 MB in bfloat16:
the longest that v1 reads, 4096 tokens, would need 5 GB for all heads together."""


class LyricEncoder(nn.Module):
    """Embedded lyric tokens to lyric states.

    Dropout acts in train mode as in the released trainer: on the embedding, the positions, each residual branch and
    inside the feed-forward.
    """

    def __init__(self, in_dim: int, width: int, *, heads: int, units: int, layers: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = width
        self.gradient_checkpointing = False
        self.embed = nn.ModuleDict({"out": nn.Sequential(nn.Linear(in_dim, width), nn.LayerNorm(width, eps=1e-5))})
        self.encoders = nn.ModuleList(
            LyricEncoderLayer(width, heads=heads, units=units, dropout=dropout) for _ in range(layers)
        )
        self.after_norm = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor, *, query_scale: Mapping[int, QueryFactor] | None = None) -> Tensor:
        """tokens: (batch, length, in_dim); mask: (batch, length), nonzero where one counts -> (batch, length, width)

        query_scale: factors on the query projections of the layers named, before the position biases are added.
        """
        x: Tensor = self.dropout(self.embed["out"](tokens) * math.sqrt(self.width))
        positions = relative_positions(tokens.shape[1], self.width, tokens.device).to(x.dtype)
        positions = self.dropout(positions)
        key_mask = mask.bool()[:, None, None, :]
        query_scale = query_scale or {}
        for index, layer in enumerate(self.encoders):
            arguments = (x, positions, key_mask, query_scale.get(index))
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
        normed: Tensor = self.after_norm(x)
        return normed


class LyricEncoderLayer(nn.Module):
    """x += Attention(norm(x)); x += W2 SiLU(W1 norm(x))."""

    def __init__(self, width: int, *, heads: int, units: int, dropout: float) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(width, eps=1e-5)
        self.self_attn = RelativeSelfAttention(width, heads)
        self.norm_ff = nn.LayerNorm(width, eps=1e-5)
        self.feed_forward = LyricFeedForward(width, units, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, key_mask: Tensor, query_factor: QueryFactor | None) -> Tensor:
        x = x + self.dropout(self.self_attn(self.norm_mha(x), positions, key_mask, query_factor))
        transformed: Tensor = self.dropout(self.feed_forward(self.norm_ff(x)))
        return x + transformed


class RelativeSelfAttention(nn.Module):
    """score(i, j) = [(q_i + u) . k_j + (q_i + w) . P(i - j)] / sqrt(head_dim), with learned u, w and P."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, positions: Tensor, key_mask: Tensor, query_factor: QueryFactor | None) -> Tensor:
        """x: (batch, length, width); positions: (2 length - 1, width); key_mask: (batch, 1, 1, length) bool -> as x

        When every key is masked (lyrics dropped in training) the result is the output projection's bias.
        """
        query = self._split_heads(scale_queries(self.linear_q(x), query_factor))
        key, value = self._split_heads(self.linear_k(x)), self._split_heads(self.linear_v(x))
        offsets = self._split_heads(self.linear_pos(positions))
        by_content = query + self.pos_bias_u.to(query.dtype).unsqueeze(1)
        by_position = query + self.pos_bias_v.to(query.dtype).unsqueeze(1)
        group = max(1, SCORES_AT_ONCE // (len(x) * x.shape[1] * offsets.shape[1]))
        attended = [
            _attend(by_content[:, some], by_position[:, some], key[:, some], value[:, some], offsets[some], key_mask)
            for some in (slice(first, first + group) for first in range(0, self.heads, group))
        ]
        projected: Tensor = self.linear_out(torch.cat(attended, dim=1).transpose(1, 2).flatten(2))
        return projected

    def _split_heads(self, x: Tensor) -> Tensor:
        """(..., length, width) -> (..., heads, length, head_dim)"""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-3, -2)


def _attend(
    by_content: Tensor, by_position: Tensor, key: Tensor, value: Tensor, offsets: Tensor, key_mask: Tensor
) -> Tensor:
    """Queries with either bias, keys and values (batch, heads, length, head_dim); offsets (heads, 2 length - 1,
    head_dim) -> (batch, heads, length, head_dim)"""
    scores = by_content @ key.transpose(-1, -2) + align_offsets(by_position @ offsets.transpose(-1, -2))
    scores = scores.float() / math.sqrt(key.shape[-1])
    # A finite floor, not -inf: a row without any key would otherwise turn into NaN before it is zeroed.
    scores = scores.masked_fill(~key_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1).masked_fill(~key_mask, 0.0).to(value.dtype)
    return weights @ value


class LyricFeedForward(nn.Module):
    """W2 SiLU(W1 x)."""

    def __init__(self, width: int, units: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, units)
        self.w_2 = nn.Linear(units, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.w_2(self.dropout(torch.nn.functional.silu(self.w_1(x))))
        return hidden


@lru_cache(maxsize=8)
def relative_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoids of the offsets length - 1 down to -(length - 1): sines on even, cosines on odd dimensions.

    -> (2 length - 1, width) float32
    """
    with torch.inference_mode(False), torch.no_grad():
        offsets = torch.arange(length - 1, -length, -1, device=device, dtype=torch.float32).unsqueeze(1)
        even = torch.arange(0, width, 2, device=device, dtype=torch.float32)
        angles = offsets * torch.exp(even * -(math.log(10000.0) / width))
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def align_offsets(scores: Tensor) -> Tensor:
    """Turn scores by offset into scores by key: column j of row i becomes the offset i - j, without a gather.

    scores: (batch, heads, length, 2 length - 1), offsets descending -> (batch, heads, length, length)
    """
    batch, heads, length, offsets = scores.shape
    padded = torch.nn.functional.pad(scores, (1, 0)).reshape(batch, heads, offsets + 1, length)
    return padded[:, :, 1:].reshape(batch, heads, length, offsets)[..., :length]
