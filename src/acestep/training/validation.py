"""Held-out loss: the same windows, noise and levels all through a run, so that a small change means something.

A look costs `LEVELS` forward passes a track, each about a quarter of a training step under gradient checkpointing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

import torch
from torch import Tensor

from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.datasets.seeding import derived_generator
from acestep.diffusion.flow_matching import logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.errors import InputError
from acestep.families.base import Conditioning, Family
from acestep.training.objective import denoising_losses
from acestep.training.results import SigmaBin, ValidationResult
from acestep.training.significance import two_sided_p

LEVELS = 6
MAX_TOKENS = 4096
"""Frames, words and lyric tokens of one forward pass: full-size v1 then holds less than a training step does."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Losses of each track at each of the levels; the same whatever processes shared the work.

    sigmas: highest first; losses: by track, in the order of their names.
    """

    sigmas: tuple[float, ...]
    losses: Mapping[str, tuple[float, ...]]

    @property
    def mean(self) -> float:
        return mean(self.by_track.values())

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over tracks; None for a single one."""
        return _standard_error(list(self.by_track.values()))

    @property
    def by_track(self) -> dict[str, float]:
        return {track: mean(losses) for track, losses in self.losses.items()}

    @property
    def by_sigma(self) -> tuple[SigmaBin, ...]:
        columns = zip(*self.losses.values(), strict=True)
        return tuple(
            SigmaBin(sigma, mean(column), _standard_error(column))
            for sigma, column in zip(self.sigmas, columns, strict=True)
        )

    @classmethod
    def merged(cls, parts: Iterable[HeldOutLoss]) -> HeldOutLoss:
        """One from the shares of several processes; InputError where they are of different levels, or share a track."""
        losses: dict[str, tuple[float, ...]] = {}
        levels: tuple[float, ...] | None = None
        for part in parts:
            if levels not in (None, part.sigmas):
                raise InputError(f"held-out losses at levels {part.sigmas} and {levels} are of different runs")
            if twice := losses.keys() & part.losses.keys():
                raise InputError(f"{', '.join(sorted(twice)[:5])} was validated twice; give each track to one process")
            levels = part.sigmas
            losses |= part.losses
        return cls(levels or (), dict(sorted(losses.items())))


@dataclass(frozen=True)
class PairedChange:
    """Mean over tracks of what each one's loss changed by. standard_error: None for a single track."""

    mean: float
    standard_error: float | None
    tracks: int

    @property
    def p_value(self) -> float | None:
        """How likely so large a mean is where nothing changes (Student's paired test, two-sided); None if unknown."""
        if self.standard_error is None:
            return None
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return two_sided_p(self.mean / self.standard_error, self.tracks - 1)

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        return f"{self.mean:+.4f}{error}"


def paired_change(before: ValidationResult, after: ValidationResult) -> PairedChange:
    """How the held-out loss went from one look to another, over the tracks that both have.

    Tracks differ far more from each other than one does from itself a few epochs later, so the error of the paired
    mean is a small part of the error of either loss. Raises InputError where there is no common track.
    """
    common = [track for track in before.by_track if track in after.by_track]
    if not common:
        raise InputError("the two validations have no track in common; compare those of one run")
    changes = [after.by_track[track] - before.by_track[track] for track in common]
    return PairedChange(mean(changes), _standard_error(changes), len(changes))


def quantile_sigmas(count: int = LEVELS, *, shift: float) -> Tensor:
    """Even quantiles of the levels that v1's training draws, highest first -> (count,) float32.

    The mean loss over them estimates that training's expected loss, whichever levels a run draws itself: so runs that
    differ in it can be compared.
    """
    shares = [(index + 0.5) / count for index in range(count)]
    normals = torch.tensor([NormalDist().inv_cdf(share) for share in shares])
    return logit_normal_sigmas(normals, training_sigmas(shift=shift))


@torch.no_grad()
def held_out_loss(
    family: Family,
    dataset: LatentDataset,
    *,
    seed: int,
    tracks: Sequence[int] | None = None,
    sigmas: Tensor | None = None,
    max_tokens: int = MAX_TOKENS,
) -> HeldOutLoss:
    """The training loss of each track at fixed levels, nothing dropped from its conditioning.

    tracks: indices of those to look at, for processes that share the work; None is all. sigmas: (levels,), None takes
    `quantile_sigmas` of the family's own noise. A forward pass holds levels of one track alone, as many as `max_tokens`
    allows: a track's losses are then bit for bit the same whoever computes them beside which others, and one track at
    full size fills a GPU. Noise depends on the seed and the recording's content alone. NaN comes out as it is.
    """
    levels = quantile_sigmas(shift=family.noise.shift) if sigmas is None else sigmas
    still = dataset.at_epoch(0)
    chosen = range(len(still)) if tracks is None else tracks
    losses = {
        still.tracks[index].name: _track_losses(family, still, index, levels, seed, max_tokens) for index in chosen
    }
    return HeldOutLoss(tuple(levels.tolist()), dict(sorted(losses.items())))


def _track_losses(
    family: Family, dataset: LatentDataset, index: int, levels: Tensor, seed: int, max_tokens: int
) -> tuple[float, ...]:
    example = dataset[index]
    conditioning = example.conditioning
    clean = example.latents.expand(len(levels), -1, -1, -1)
    noise = _noise(seed, dataset.tracks[index], clean)
    tokens = clean.shape[-1] + conditioning.text_states.shape[1] + conditioning.lyric_ids.shape[1]
    passes = math.ceil(len(levels) / max(max_tokens // tokens, 1))
    found = []
    for rows in torch.arange(len(levels)).tensor_split(passes):
        clean_rows, noise_rows, sigmas = (tensor[rows].to(family.device) for tensor in (clean, noise, levels))
        repeated = Conditioning.stack([conditioning] * len(rows)).to(family.device)
        found.append(denoising_losses(family.velocity, clean_rows, noise_rows, sigmas, repeated).cpu())
    return tuple(torch.cat(found).tolist())


def _noise(seed: int, track: CachedTrack, clean: Tensor) -> Tensor:
    return torch.randn(clean.shape, generator=derived_generator(seed, "held out", track.content))


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    # statistics.stdev raises on what is no number, and a loss that became NaN must come out as such.
    return stdev(values) / math.sqrt(len(values)) if all(map(math.isfinite, values)) else math.nan
