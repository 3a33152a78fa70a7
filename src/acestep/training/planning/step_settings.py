"""What decides the cost of a training step: its shapes, the adapter, the precision and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from acestep.models.quantization import Quantization
from acestep.training.optimization import OptimizationSettings

_PLAIN = OptimizationSettings(
    optimizer="adamw",
    learning_rate=1e-4,
    scheduler="constant",
    warmup_steps=0,
    total_steps=1,
    weight_decay=0.01,
    max_grad_norm=1.0,
)


@dataclass(frozen=True)
class StepSettings:
    """One optimizer step. frames: of the window; text_tokens, lyric_tokens: of the longest conditioning to come.

    targets: names of modules (`lora/targets.py`); adapter: what else `attach_trainable` takes besides the rank (alpha,
    dropout, dora ...); quantization: that the base is to have, whether or not it has it yet.
    """

    frames: int
    targets: tuple[str, ...]
    rank: int
    adapter: Mapping[str, Any] = field(default_factory=lambda: {"alpha": 1.0})
    text_tokens: int = 64
    lyric_tokens: int = 512
    batch_size: int = 1
    accumulation: int = 1
    autocast: torch.dtype | None = None
    gradient_checkpointing: bool = True
    quantization: Quantization | None = None
    optimization: OptimizationSettings = _PLAIN
