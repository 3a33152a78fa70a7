"""Adapters: low-rank factors as data, every format they come in, and how they go on a network and off again."""

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
from acestep.lora.bases import base_shapes
from acestep.lora.catalogue import CATALOGUE, OfficialLora, find_official
from acestep.lora.conversion import Conversion, Verification, convert_adapter, verify_adapters, verify_round_trip
from acestep.lora.factors import Adapter, Factors, ReadingReport
from acestep.lora.inspection import Inspection, inspect_adapter
from acestep.lora.metadata import AdapterMetadata, Parent, TrainedWith
from acestep.lora.schedule import NoiseRange, Section, Strength, scheduled_branches
from acestep.lora.targets import find_ranks, find_targets, target_names

__all__ = [
    "CATALOGUE",
    "Adapter",
    "AdapterMetadata",
    "Conversion",
    "Factors",
    "Inspection",
    "NoiseRange",
    "OfficialLora",
    "Parent",
    "ReadingReport",
    "Section",
    "Strength",
    "TrainableAdapter",
    "TrainedWith",
    "Verification",
    "attach",
    "attach_trainable",
    "attached_names",
    "base_shapes",
    "convert_adapter",
    "detach",
    "find_official",
    "find_ranks",
    "find_targets",
    "inspect_adapter",
    "module_shapes",
    "read_adapter",
    "scheduled_branches",
    "set_weights",
    "target_names",
    "verify_adapters",
    "verify_round_trip",
    "write_adapter",
]
