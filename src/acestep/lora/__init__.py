"""Adapters: low-rank factors as data, their folder, and how they go on a network and off again."""

from acestep.lora.adapter import read_adapter, write_adapter
from acestep.lora.attach import (
    TrainableAdapter,
    attach,
    attach_trainable,
    attached_names,
    detach,
    module_shapes,
    set_weights,
)
from acestep.lora.factors import Adapter, Factors, ReadingReport
from acestep.lora.metadata import AdapterMetadata, Parent, TrainedWith
from acestep.lora.targets import find_ranks, find_targets, target_names

__all__ = [
    "Adapter",
    "AdapterMetadata",
    "Factors",
    "Parent",
    "ReadingReport",
    "TrainableAdapter",
    "TrainedWith",
    "attach",
    "attach_trainable",
    "attached_names",
    "detach",
    "find_ranks",
    "find_targets",
    "module_shapes",
    "read_adapter",
    "set_weights",
    "target_names",
    "write_adapter",
]
