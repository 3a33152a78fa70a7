"""What the transformer keeps of a prompt: the encoded sequence, and the keys and values that it gives every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedConditioning:
    """Speaker, text and lyrics as one sequence for cross attention.

    states: (batch, tokens, width); mask: (batch, tokens) bool, True where a token counts
    """

    states: Tensor
    mask: Tensor

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> EncodedConditioning:
        """The same on another device or in another precision; the mask stays bool."""
        return EncodedConditioning(self.states.to(device=device, dtype=dtype), self.mask.to(device=device))

    def packed(self, kept: Tensor) -> EncodedConditioning:
        """Tokens that `kept` (batch, tokens) bool names first, in their order, the rest cut off or masked.

        Padding between text and lyrics moves the lyrics' rotary positions; packed, an item of a batch has the positions
        that it has alone.
        """
        order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(dim=1).max())]
        states = self.states.gather(1, order.unsqueeze(-1).expand(-1, -1, self.states.shape[-1]))
        return EncodedConditioning(states, (self.mask & kept).gather(1, order))

    @staticmethod
    def cat(parts: Sequence[EncodedConditioning]) -> EncodedConditioning:
        """Join along the batch; shorter sequences are padded with masked zeros, which changes no output."""
        tokens = max(part.states.shape[1] for part in parts)
        return EncodedConditioning(
            torch.cat([_pad_tokens(part.states, tokens) for part in parts]),
            torch.cat([_pad_tokens(part.mask.unsqueeze(-1), tokens).squeeze(-1) for part in parts]),
        )


@dataclass(frozen=True)
class CrossAttentionCache:
    """Every block's keys (already rotated) and values, computed once a song.

    keys, values: one (batch, heads, tokens, head_dim) a block; mask: (batch, tokens) bool
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrossAttentionCache:
        """The same on another device or in another precision; the mask stays bool."""
        return CrossAttentionCache(
            tuple(key.to(device=device, dtype=dtype) for key in self.keys),
            tuple(value.to(device=device, dtype=dtype) for value in self.values),
            self.mask.to(device=device),
        )

    @staticmethod
    def cat(parts: Sequence[CrossAttentionCache]) -> CrossAttentionCache:
        """Join along the batch; shorter sequences are padded with masked zeros, which changes no output."""
        tokens = max(part.mask.shape[1] for part in parts)

        def join(per_part: tuple[Tensor, ...]) -> Tensor:
            return torch.cat([_pad_tokens(tensor, tokens) for tensor in per_part])

        return CrossAttentionCache(
            tuple(map(join, zip(*(part.keys for part in parts), strict=True))),
            tuple(map(join, zip(*(part.values for part in parts), strict=True))),
            torch.cat([_pad_tokens(part.mask.unsqueeze(-1), tokens).squeeze(-1) for part in parts]),
        )


def _pad_tokens(tensor: Tensor, tokens: int) -> Tensor:
    """Zeros (False) appended on the second-last axis up to `tokens`."""
    missing = tokens - tensor.shape[-2]
    return tensor if missing == 0 else torch.nn.functional.pad(tensor, (0, 0, 0, missing))
