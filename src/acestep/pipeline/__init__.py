"""Prompt to song: the pipeline, its tasks and their results."""

from acestep.pipeline.pipeline import ACEStepPipeline
from acestep.pipeline.result import GenerationResult, read_recipe

__all__ = ["ACEStepPipeline", "GenerationResult", "read_recipe"]
