"""A base model as the rest sees it, and how it is loaded."""

from acestep.families.base import Conditioning, Family, SamplingDefaults, TrainingNoise, drop_conditioning

__all__ = ["Conditioning", "Family", "SamplingDefaults", "TrainingNoise", "drop_conditioning"]
