"""Prompts to text states: the UMT5 encoder of a checkpoint, and its weakened form for guidance.

Entropy-rectifying guidance compares the model with one whose text is blurred: the query projections of two encoder
blocks are multiplied by 0.01, so that these blocks attend almost evenly (Ifriqi et al. 2025, arXiv:2504.13987; blocks
and factor as ACE-Step v1 uses them). Source of the encoder: UMT5 (Chung et al. 2023, arXiv:2304.09151).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from acestep.conditioning.umt5 import UMT5Config, UMT5Encoder
from acestep.errors import CheckpointError, InputError, MissingWeightsError

MAX_PROMPT_TOKENS = 256
"""The longest prompt that v1 was trained on, the end token included."""

WEAKENED_BLOCKS = (8, 9)
WEAKENING = 0.01

_FILES = ("config.json", "tokenizer.json", "model.safetensors")
logger = logging.getLogger(__name__)


class TextEncoder:
    """A UMT5 encoder with its tokeniser, in evaluation mode; safe to call from several threads."""

    def __init__(self, encoder: UMT5Encoder, tokenizer: Tokenizer, *, max_tokens: int = MAX_PROMPT_TOKENS) -> None:
        encoder.train(False)
        self._encoder = encoder.requires_grad_(False)
        self._padding_id, self._end_id = encoder.config.pad_token_id, encoder.config.eos_token_id
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def from_folder(cls, folder: Path, *, dtype: torch.dtype = torch.float32) -> TextEncoder:
        """Load a checkpoint's text encoder folder (config.json, model.safetensors, tokenizer.json), on the CPU."""
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise MissingWeightsError(f"text encoder folder {folder} lacks {', '.join(missing)}")
        # On the meta device the 282 million parameters of v1's encoder are not filled with random numbers first.
        with torch.device("meta"):
            encoder = UMT5Encoder(_read_config(folder / "config.json"))
        weights_path = folder / "model.safetensors"
        weights = {name: tensor.to(dtype) for name, tensor in load_file(weights_path).items()}
        _assign(encoder, weights, weights_path)
        return cls(encoder, Tokenizer.from_file(str(folder / "tokenizer.json")))

    @property
    def dim(self) -> int:
        """Width of the states."""
        return self._encoder.config.d_model

    @property
    def device(self) -> torch.device:
        return self._encoder.shared.weight.device

    @property
    def module(self) -> UMT5Encoder:
        """The encoder itself, for those who count, hash or quantise its weights."""
        return self._encoder

    def tokenizer_fingerprint(self) -> str:
        """sha256 of the tokeniser, vocabulary and rules."""
        return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

    def to(self, *args: Any, **kwargs: Any) -> TextEncoder:
        """Move the weights, as nn.Module.to does, and return this encoder."""
        self._encoder.to(*args, **kwargs)
        return self

    def count_tokens(self, text: str) -> int:
        """Tokens that a prompt takes, the end token included."""
        return len(self._token_ids(text))

    def check_length(self, text: str) -> None:
        """InputError when a prompt is longer than the model reads."""
        count = self.count_tokens(text)
        if count > self.max_tokens:
            raise InputError(f"the prompt makes {count} tokens, the model reads at most {self.max_tokens}; shorten it")

    def encode(self, texts: Sequence[str], *, weaken_queries: bool = False) -> tuple[Tensor, Tensor]:
        """States of prompts after the final norm, and the mask of their tokens; a longer prompt is cut (check_length).

        -> (states (batch, tokens, dim) in the encoder's dtype, mask (batch, tokens) int64). Padding is masked, and its
        states are not zero. weaken_queries: the blurred states that guidance compares with; InputError when the
        encoder is too shallow for it.
        """
        if not texts:
            raise InputError("no prompt to encode; give at least one")
        if weaken_queries:
            self._check_depth()
        ids, mask = self._batch(texts)
        with torch.no_grad():
            states = self._encoder(
                ids, mask, query_scale=dict.fromkeys(WEAKENED_BLOCKS, WEAKENING) if weaken_queries else None
            )
        return states, mask

    def _check_depth(self) -> None:
        depth = self._encoder.config.num_layers
        if depth <= max(WEAKENED_BLOCKS):
            raise InputError(
                f"this text encoder is too shallow for ERG: it has {depth} blocks, the queries of blocks "
                f"{WEAKENED_BLOCKS} are weakened; switch ERG for the prompt off"
            )

    def _batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self._cut(self._token_ids(text)) for text in texts]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self._padding_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_tokens:
            return ids
        logger.warning("a prompt of %d tokens is cut to %d", len(ids), self.max_tokens)
        return [*ids[: self.max_tokens - 1], ids[-1]]

    def _token_ids(self, text: str) -> list[int]:
        # A lone surrogate is not text; it can reach us through JSON.
        ids = list(self._tokenizer.encode(text.encode("utf-8", "ignore").decode("utf-8")).ids)
        # Some tokenizer.json files leave the end token to their reader.
        return ids if ids and ids[-1] == self._end_id else [*ids, self._end_id]


def _read_config(path: Path) -> UMT5Config:
    try:
        return UMT5Config.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no text encoder's config ({error}); get the file again") from error


def _assign(encoder: UMT5Encoder, weights: dict[str, Tensor], path: Path) -> None:
    # Some files hold the embedding a second time under this name.
    weights.pop("encoder.embed_tokens.weight", None)
    try:
        report = encoder.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit its config.json: {error}") from error
    if report.missing_keys or report.unexpected_keys:
        raise CheckpointError(
            f"{path} does not fit its config.json: missing {report.missing_keys}, not asked for"
            f" {report.unexpected_keys}"
        )
