"""Recordings to latents in bounded memory: long ones are encoded in overlapping windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from acestep.audio.streaming import Audio, stream_recording
from acestep.errors import AudioError
from acestep.families.base import Family

WINDOW_S = 120.0
"""Longer recordings are cut: the v1 autoencoder needs some 30 MB a second at full size."""
CONTEXT_S = 6.0
"""Heard on each side of a window and thrown away, so that no latent sees a cut."""
SILENT_SHARE = 0.95
"""v1's own limit: a recording of which more samples are exactly zero is no music."""


def encode_recording(family: Family, path: Path) -> Tensor:
    """Latents (8, 16, frames) float32 of a whole recording; a last frame that the recording does not fill is left out.

    Raises AudioError for what cannot be read, is silent, or is shorter than one frame.
    """
    return encode_blocks(family, stream_recording(path, family.sample_rate))


def encode_blocks(family: Family, audio: Iterable[Audio]) -> Tensor:
    """As `encode_recording`, of blocks (2, samples) at the family's rate."""
    hop = round(family.sample_rate / family.latent_rate)
    counter = _SampleCounter()
    blocks = counter.watch(map(torch.from_numpy, audio))
    latents = torch.cat(list(encode_windows(family, blocks, hop=hop)), dim=-1)
    counter.check(hop)
    return latents[..., : counter.samples // hop].clone()


def encode_windows(
    family: Family, blocks: Iterator[Tensor], *, hop: int, window_s: float = WINDOW_S, context_s: float = CONTEXT_S
) -> Iterator[Tensor]:
    """blocks: (2, samples) at the family's rate -> consecutive pieces of latents, (8, 16, frames) each."""
    window, context = int(window_s * family.latent_rate), int(context_s * family.latent_rate)
    buffer = torch.zeros(2, 0)
    skipped = 0  # frames at the buffer's start that an earlier piece has given
    for block in blocks:
        buffer = torch.cat([buffer, block], dim=1)
        while buffer.shape[1] > window * hop:
            yield _encode(family, buffer[:, : window * hop])[..., skipped : window - context]
            buffer = buffer[:, (window - 2 * context) * hop :]
            skipped = context
    if buffer.shape[1]:
        yield _encode(family, buffer)[..., skipped:]


def _encode(family: Family, audio: Tensor) -> Tensor:
    return family.encode_audio(audio.unsqueeze(0))[0].float().cpu()


class _SampleCounter:
    """How many samples went by, and how many of them were nothing."""

    def __init__(self) -> None:
        self.samples = 0
        self.zeros = 0

    def watch(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        for block in blocks:
            self.samples += block.shape[1]
            self.zeros += int((block == 0).all(dim=0).sum())
            yield block
        if not self.samples:
            raise AudioError("it has no audio in it")

    def check(self, hop: int) -> None:
        if self.zeros > SILENT_SHARE * self.samples:
            raise AudioError(f"{self.zeros / self.samples:.0%} of it is silence")
        if self.samples < hop:
            raise AudioError(f"it is shorter than one latent frame ({hop} samples)")
