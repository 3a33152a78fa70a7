"""A fresh adapter on a network for as long as it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from acestep.lora.attach import TrainableAdapter, attach_trainable


@contextmanager
def attached(
    network: nn.Module, targets: Sequence[str], *, form: Mapping[str, Any], gradient_checkpointing: bool
) -> Iterator[TrainableAdapter]:
    """Within the block the adapter is there, and the network checkpoints as told, if it can; then all is as it was.

    form: what else `attach_trainable` takes.
    """
    switched: Any = network
    before = getattr(network, "gradient_checkpointing", None)
    adapter = attach_trainable(network, targets, **form)
    if before is not None:
        switched.gradient_checkpointing = gradient_checkpointing
    try:
        yield adapter
    finally:
        adapter.detach()
        if before is not None:
            switched.gradient_checkpointing = before
