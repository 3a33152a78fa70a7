"""The embedded model: there, small, and making sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acestep import ACEStepPipeline, GenerationResult
from acestep.families.hub import find_checkpoint

MAX_BYTES = 25_000_000


@pytest.fixture(scope="module")
def song() -> GenerationResult:
    pipe = ACEStepPipeline.from_pretrained("nano", device="cpu")
    return pipe("techno, driving, 130 bpm, A minor", duration=8, seed=1, steps=16)


def test_it_is_inside_the_package_and_small() -> None:
    files = [path for path in find_checkpoint("nano").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]


def test_its_songs_are_neither_silent_nor_clipped(song: GenerationResult) -> None:
    assert song.audio.isfinite().all()
    assert song.audio.std() > 0.02
    assert (song.audio.abs() >= 0.999).float().mean() < 0.001


def test_its_songs_have_beats_and_not_one_steady_noise(song: GenerationResult) -> None:
    level = song.audio.mean(0).unfold(0, 1024, 1024).square().mean(1).sqrt()
    assert level.std() > 0.15 * level.mean()


def test_it_makes_the_same_song_again_from_a_file(song: GenerationResult, tmp_path: Path) -> None:
    again = ACEStepPipeline.from_pretrained("nano", device="cpu")(**song.params)
    assert torch.equal(again.audio, song.audio)
    assert song.save(tmp_path / "song.ogg").stat().st_size > 10_000


def test_a_song_needs_neither_torchs_compiler_nor_transformers() -> None:
    code = """
import sys
from acestep import ACEStepPipeline
ACEStepPipeline.from_pretrained("nano", device="cpu")("lofi", "[verse]\\nla", duration=5, steps=1, seed=1)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Each of them takes longer to import than nano to load.
    assert not {"torch._dynamo", "torch._inductor", "sympy", "transformers", "scipy"} & set(done.stdout.split())
