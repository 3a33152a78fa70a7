"""Music made by rule, with captions that are true: what nano learned from, and one style that it never heard."""

from acestep.datasets.synthesis.styles import NOVEL_STYLES, STYLES, Style
from acestep.datasets.synthesis.tracks import SynthTrack, TimedSection, compose_track, make_track, write_dataset

__all__ = [
    "NOVEL_STYLES",
    "STYLES",
    "Style",
    "SynthTrack",
    "TimedSection",
    "compose_track",
    "make_track",
    "write_dataset",
]
