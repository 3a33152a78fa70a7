"""A base model as the rest sees it, and how it is loaded."""

from acestep.families.base import (
    Conditioning,
    EncoderFingerprints,
    Family,
    SamplingDefaults,
    TrainingNoise,
    drop_conditioning,
)

__all__ = ["Conditioning", "EncoderFingerprints", "Family", "SamplingDefaults", "TrainingNoise", "drop_conditioning"]
