"""The two attentions of a v1 block: linear over the frames, softmax over the conditioning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.models.v1.rotary import RotaryTables, apply_rotary

QueryFactor = float | Tensor
"""A factor on queries: one number, or a tensor (batch,) when items of a batch differ."""

# The released model's guard against dividing by an empty sum.
_EMPTY_SUM = 1e-15


class _Projections(nn.Module):
    """Query, key, value and output projections under the checkpoint's names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, heads, length, head_dim)"""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def project_out(self, heads: Tensor) -> Tensor:
        """(batch, heads, length, head_dim) -> (batch, length, width)"""
        projected: Tensor = self.to_out(heads.transpose(1, 2).flatten(2))
        return projected


class LinearSelfAttention(_Projections):
    """Attention with ReLU features in place of the softmax, so its cost grows with the length and not its square.

    o(s) = sum_t v(t) (k(t) . q(s)) / sum_t (k(t) . q(s)), after ReLU on q and k (Cai et al. 2022, arXiv:2205.14756).
    """

    def forward(
        self, x: Tensor, rotary: RotaryTables, frame_mask: Tensor | None, query_factor: QueryFactor | None
    ) -> Tensor:
        """x: (batch, frames, width); frame_mask: (batch, frames), 1 where a frame is real -> (batch, frames, width)

        A masked frame gives the output projection's bias and is seen by no other frame.
        """
        query = self.split_heads(scale_queries(self.to_q(x), query_factor))
        key = self.split_heads(self.to_k(x))
        value = self.split_heads(self.to_v(x))
        # Sums over a whole song lose their small terms in bfloat16, so everything between the projections is float32.
        with torch.autocast(device_type=x.device.type, enabled=False):
            query = apply_rotary(query.float(), rotary)
            key = apply_rotary(key.float(), rotary)
            value = value.float()
            if frame_mask is not None:
                keep = frame_mask.to(value.dtype)[:, None, :, None]
                query, key, value = query * keep, key * keep, value * keep
            mixed = relu_linear_attention(query, key, value)
        return self.project_out(mixed.to(x.dtype))


class CrossAttention(_Projections):
    """Softmax attention from frames to the conditioning; both sides carry rotary positions that start at 0."""

    def keys_and_values(self, states: Tensor, rotary: RotaryTables) -> tuple[Tensor, Tensor]:
        """states: (batch, tokens, width) -> rotated keys and plain values, each (batch, heads, tokens, head_dim)"""
        value = self.split_heads(self.to_v(states))
        key = apply_rotary(self.split_heads(self.to_k(states)), rotary)
        return key.to(value.dtype), value

    def forward(
        self,
        x: Tensor,
        keys_and_values: tuple[Tensor, Tensor],
        token_mask: Tensor,
        rotary: RotaryTables,
        frame_mask: Tensor | None,
        query_factor: QueryFactor | None,
    ) -> Tensor:
        """x: (batch, frames, width); token_mask: (batch, tokens) bool -> (batch, frames, width)

        A masked frame attends to nothing and gives the output projection's bias. The mask multiplies the result instead
        of emptying softmax rows, whose value differs between torch versions and backends.
        """
        key, value = keys_and_values
        query = apply_rotary(self.split_heads(scale_queries(self.to_q(x), query_factor)), rotary)
        mixed = F.scaled_dot_product_attention(query.to(key.dtype), key, value, token_mask[:, None, None, :])
        if frame_mask is not None:
            mixed = mixed * frame_mask.to(mixed.dtype)[:, None, :, None]
        return self.project_out(mixed)


def relu_linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The sum over key positions is taken once, so no (frames, frames) matrix is made.

    query, key: (..., frames, head_dim) before the ReLU; value: (..., frames, value_dim) -> as value
    """
    query, key = query.relu(), key.relu()
    summary = key.transpose(-1, -2) @ value
    total = key.sum(dim=-2).unsqueeze(-1)
    return (query @ summary) / (query @ total + _EMPTY_SUM)


def scale_queries(query: Tensor, factor: QueryFactor | None) -> Tensor:
    """query: (batch, length, width) times one number, or times one number an item; None leaves it as it is."""
    if factor is None:
        return query
    if isinstance(factor, Tensor):
        factor = factor.to(query).view(-1, 1, 1)
    return query * factor
