"""How long a run is and what it leaves on the disk: what a plan is made of besides its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunShape:
    """steps: optimizer steps; validations: looks at held_out_tracks, each at `levels` noise levels; tracks and audio_s:
    of the whole dataset; to_encode_s: of it, what no cache has yet; variants: encodings of each track, its own one
    included; songs: in each of sample_rounds, of sample_s seconds (the base's own songs come once besides);
    checkpoints_kept: at most.
    """

    steps: int
    tracks: int
    audio_s: float
    output_dir: Path
    cache_dir: Path
    validations: int = 0
    held_out_tracks: int = 0
    levels: int = 4
    to_encode_s: float = 0.0
    variants: int = 1
    songs: int = 0
    sample_rounds: int = 0
    sample_s: float = 20.0
    checkpoints: int = 1
    checkpoints_kept: int = 3
