"""Where in a training track a song's latents occur: normalised cross-correlation of short windows over all shifts.

Latents are brought to a common scale first, and every window is centred on its own mean, so that a steady timbre that a
whole style shares counts for nothing and only what moves in time does (Lewis 1995, "Fast normalized
cross-correlation"). All shifts are computed by FFT in blocks, which takes 0.1 s for 250 windows and three minutes of
music; memory is bounded by MOST_WINDOWS and one track.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WINDOW_S = 4.0
HOP_S = 1.0
BLOCK = 512
MOST_WINDOWS = 256
"""Windows searched for in one walk over the tracks; their spectra take 70 MB."""
STILL = 0.03
"""A window that moves less than this share of an ordinary one is silence or a held note, and like nothing."""

Source = Callable[[], Tensor]
"""Reads the latents of a training track, (8, 16, frames)."""


@dataclass(frozen=True)
class Scale:
    """Mean and deviation of each of the latents' 128 numbers over all training tracks, (128, 1) each."""

    mean: Tensor
    deviation: Tensor

    @staticmethod
    def of(sources: Sequence[Source]) -> Scale:
        """Reads each track once."""
        count, total, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for source in sources:
            latents = source().flatten(0, 1).double()
            count += latents.shape[1]
            total = total + latents.sum(1)
            squares = squares + latents.square().sum(1)
        mean = total / max(count, 1)
        variance = (squares / max(count, 1) - mean.square()).clamp(min=0)
        # A number that never moves must not be blown up to noise.
        deviation = variance.sqrt().clamp(min=1e-3 * float(variance.max().sqrt()) + 1e-12)
        return Scale(mean.float()[:, None], deviation.float()[:, None])

    def apply(self, latents: Tensor) -> Tensor:
        """(8, 16, frames) -> (128, frames)"""
        return (latents.flatten(0, 1).float() - self.mean) / self.deviation


@dataclass(frozen=True)
class Windows:
    """Windows of songs, centred and of length 1.

    values: (windows, 128, frames); owners: which song each is of; starts: its first frame there.
    """

    values: Tensor
    owners: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @staticmethod
    def of(songs: Sequence[Tensor], size: int, hop: int) -> Windows:
        """songs: scaled latents (128, frames) each; one shorter than a window has none, and a still window is left
        out. The last window of a song ends where the song does."""
        values, owners, starts = [torch.zeros(0, 128, size)], [], []
        for owner, song in enumerate(songs):
            last = song.shape[1] - size
            if last < 0:
                continue
            at = torch.tensor(sorted({*range(0, last + 1, hop), last}))
            windows = song.unfold(1, size, 1)[:, at].movedim(1, 0)
            windows = windows - windows.mean(-1, keepdim=True)
            energy = windows.square().sum((1, 2))
            moving = energy > STILL * windows[0].numel()
            values.append(windows[moving] / energy[moving].sqrt()[:, None, None])
            owners += [owner] * int(moving.sum())
            starts.append(at[moving])
        return Windows(torch.cat(values), torch.tensor(owners), torch.cat([torch.zeros(0, dtype=torch.long), *starts]))


@dataclass(frozen=True)
class Found:
    """The best place of each window in one track. similarity: (windows,) in [-1, 1]; frames: (windows,) where."""

    similarity: Tensor
    frames: Tensor


def search(windows: Windows, sources: Sequence[Source], scale: Scale) -> Iterator[tuple[slice, int, Found]]:
    """(which windows, number of the source, what was found), walking over all sources once for each MOST_WINDOWS."""
    for first in range(0, len(windows), MOST_WINDOWS):
        rows = slice(first, min(first + MOST_WINDOWS, len(windows)))
        spectra = torch.fft.rfft(windows.values[rows], BLOCK).conj().permute(2, 0, 1).contiguous()
        size = windows.values.shape[-1]
        for number, source in enumerate(sources):
            track = scale.apply(source())
            if track.shape[1] >= size:
                yield rows, number, _best_places(spectra, size, track)


def _best_places(spectra: Tensor, size: int, track: Tensor) -> Found:
    """spectra: (bins, windows, 128), conjugated; track: (128, frames) -> the highest correlation of each window."""
    shifts = track.shape[1] - size + 1
    step = BLOCK - size + 1
    blocks = -(-shifts // step)
    padded = torch.nn.functional.pad(track, (0, (blocks - 1) * step + BLOCK - track.shape[1]))
    pieces = torch.fft.rfft(padded.unfold(1, BLOCK, step)).permute(2, 0, 1).contiguous()  # (bins, 128, blocks)
    products = torch.bmm(spectra, pieces).permute(1, 2, 0)
    correlation = torch.fft.irfft(products, BLOCK)[..., :step].flatten(1)[:, :shifts]
    correlation = correlation * _inverse_length(track, size)
    similarity, frames = correlation.max(dim=1)
    return Found(similarity, frames)


def _inverse_length(track: Tensor, size: int) -> Tensor:
    """One over the length of each of the track's windows once it is centred, (shifts,); 0 where it is still."""
    sums = torch.nn.functional.pad(track.double().cumsum(1), (1, 0))
    squares = torch.nn.functional.pad(track.double().square().sum(0).cumsum(0), (1, 0))
    within = sums[:, size:] - sums[:, :-size]
    energy = squares[size:] - squares[:-size] - within.square().sum(0) / size
    moving = energy > STILL * len(track) * size
    return torch.where(moving, energy.clamp(min=1e-12).rsqrt(), torch.zeros(())).float()
