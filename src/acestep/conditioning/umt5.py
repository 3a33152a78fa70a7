"""The UMT5 encoder: token ids to text states.

UMT5 (Chung et al. 2023, arXiv:2304.09151) is T5 (Raffel et al. 2020, arXiv:1910.10683, with the gated feed-forward of
Shazeer 2020, arXiv:2002.05202) in which every block has relative position biases of its own. Module names are those of
the released files. Ours, because importing the one of transformers takes longer than loading nano and making a song's
first steps; tests hold it to that one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import CheckpointError


@dataclass(frozen=True)
class UMT5Config:
    """The names and defaults of a checkpoint's config.json."""

    vocab_size: int = 250112
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"
    pad_token_id: int = 0
    eos_token_id: int = 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UMT5Config:
        """Other names in it are left alone; CheckpointError for a feed-forward that is not the released one."""
        known = {field.name: values[field.name] for field in fields(cls) if values.get(field.name) is not None}
        config = cls(**known)
        if config.feed_forward_proj != "gated-gelu":
            raise CheckpointError(
                f"the text encoder's feed_forward_proj is {config.feed_forward_proj!r}; only 'gated-gelu' can be read"
            )
        return config


class UMT5Encoder(nn.Module):
    """States after the final norm, (batch, tokens, d_model), in the weights' dtype. Its values come from a file."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = _embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack(config)

    def forward(self, ids: Tensor, mask: Tensor, *, query_scale: Mapping[int, float] | None = None) -> Tensor:
        """ids, mask: (batch, tokens) int64; masked tokens are seen by nobody, and have states nonetheless.

        query_scale: factors on the queries of the blocks named.
        """
        states: Tensor = self.encoder(self.shared(ids), mask.bool(), query_scale or {})
        return states


class _Stack(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.buckets, self.reach = config.relative_attention_num_buckets, config.relative_attention_max_distance

    def forward(self, states: Tensor, mask: Tensor, query_scale: Mapping[int, float]) -> Tensor:
        # The lowest number and not -inf: a prompt of nothing but padding attends evenly and stays finite.
        hidden = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
        hidden = hidden.masked_fill(~mask, torch.finfo(states.dtype).min)[:, None, None, :]
        buckets = position_buckets(mask.shape[1], self.buckets, self.reach).to(states.device)
        for index, block in enumerate(self.block):
            states = block(states, hidden, buckets, query_scale.get(index, 1.0))
        normed: Tensor = self.final_layer_norm(states)
        return normed


class _Block(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionPart(config), _FeedForwardPart(config)])

    def forward(self, states: Tensor, hidden: Tensor, buckets: Tensor, query_scale: float) -> Tensor:
        attention, feed_forward = self.layer
        states = states + attention(states, hidden, buckets, query_scale)
        changed: Tensor = states + feed_forward(states)
        return changed


class _AttentionPart(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, states: Tensor, hidden: Tensor, buckets: Tensor, query_scale: float) -> Tensor:
        attended: Tensor = self.SelfAttention(self.layer_norm(states), hidden, buckets, query_scale)
        return attended


class SelfAttention(nn.Module):
    """Attention whose scores are q k + bias(position), not divided by sqrt(d_kv), which the weights have learnt."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.q, self.k, self.v = (nn.Linear(config.d_model, inner, bias=False) for _ in "qkv")
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias = _embedding(config.relative_attention_num_buckets, config.num_heads)
        self.heads = config.num_heads

    def forward(self, states: Tensor, hidden: Tensor, buckets: Tensor, query_scale: float) -> Tensor:
        """states: (batch, tokens, d_model); hidden: (batch, 1, 1, tokens), added to the scores; buckets: (tokens,
        tokens) of `position_buckets` -> as states
        """
        query, key, value = (part(states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self._parts())
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1) + hidden
        mixed = F.scaled_dot_product_attention(query * query_scale, key, value, attn_mask=bias, scale=1.0)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out

    def _parts(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q, self.k, self.v


class _FeedForwardPart(nn.Module):
    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedFeedForward(config)
        self.layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, states: Tensor) -> Tensor:
        changed: Tensor = self.DenseReluDense(self.layer_norm(states))
        return changed


class GatedFeedForward(nn.Module):
    """W_o (gelu(W_0 x) * W_1 x), the gelu by its tanh approximation."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.wo(F.gelu(self.wi_0(states), approximate="tanh") * self.wi_1(states))
        return out


class RMSNorm(nn.Module):
    """x / rms(x), taken in float32, times a weight in its own dtype (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * normed.to(self.weight.dtype)


def _embedding(count: int, width: int) -> nn.Embedding:
    # Filling one with random numbers on the meta device would import torch's compiler, which takes seconds.
    return nn.Embedding(count, width, _weight=torch.empty(count, width))


def position_buckets(tokens: int, buckets: int, reach: int) -> Tensor:
    """Which bias holds from each token (rows) to each other -> (tokens, tokens) int64.

    Half of the buckets look back and half ahead; of each half, the first half are single distances, and the rest grow
    geometrically up to `reach`, beyond which all distances are one (T5, section 2.1).
    """
    offsets = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None]
    distances, one_side = offsets.abs(), buckets // 2
    single = one_side // 2
    grown = torch.log(distances.clamp(min=1).float() / single) / math.log(reach / single) * (one_side - single)
    far = (single + grown.long()).clamp(max=one_side - 1)
    return torch.where(distances < single, distances, far) + one_side * (offsets > 0)
