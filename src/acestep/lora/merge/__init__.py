"""Merging adapters: one file a method, over the true changes `B A` with their scales in them."""

from acestep.lora.merge.groups import GROUPS
from acestep.lora.merge.interference import Interference, measure_interference
from acestep.lora.merge.merging import merge_loras
from acestep.lora.merge.methods import METHODS, Method, find_method
from acestep.lora.merge.report import MergeReport, ModuleMerge

__all__ = [
    "GROUPS",
    "METHODS",
    "Interference",
    "MergeReport",
    "Method",
    "ModuleMerge",
    "find_method",
    "measure_interference",
    "merge_loras",
]
