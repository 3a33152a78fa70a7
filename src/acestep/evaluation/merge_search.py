"""Weights for a merge, found by listening to the loss: those with which each source's recordings are predicted best.

Adapters that are attached together compute the sum that a linear merge writes, so no merge is made while weights are
tried: each trial is one pass over the held-out clips. Compass search (Kolda, Lewis and Torczon 2003, "Optimization by
direct search"), since a loss of few clips has no gradient to trust. On nano, two sources of two clips each: minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acestep.errors import InputError
from acestep.evaluation.held_out import HeldOutClip, clip_losses, training_levels
from acestep.families.base import Family
from acestep.lora import Adapter, attach, attached_names, detach, set_weights

LEVELS = 4
FIRST_STEP, LAST_STEP = 0.25, 0.05
LARGEST = 1.5
"""Weights are looked for from 0 to here."""


@dataclass(frozen=True)
class SearchedSource:
    """An adapter of the merge, and recordings of its style that it was not trained on."""

    name: str
    adapter: Adapter
    clips: Sequence[HeldOutClip]


@dataclass(frozen=True)
class SourceLoss:
    """Mean held-out loss on one source's recordings."""

    name: str
    base: float
    alone: float
    """With its own adapter at weight 1."""
    merged: float
    """With the weights that were found."""

    @property
    def lost(self) -> float:
        """How much worse than with its own adapter, as a share of that loss; negative where the others help."""
        return self.merged / self.alone - 1


@dataclass(frozen=True)
class SearchResult:
    """The weights, in the sources' order, for `task_arithmetic`; and every trial, (weights, mean share lost)."""

    weights: tuple[float, ...]
    sources: tuple[SourceLoss, ...]
    trials: tuple[tuple[tuple[float, ...], float], ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "weights": list(self.weights),
            "sources": [{**vars(source), "lost": source.lost} for source in self.sources],
            "trials": [{"weights": list(weights), "lost": lost} for weights, lost in self.trials],
        }


def search_weights(
    family: Family,
    sources: Sequence[SearchedSource],
    *,
    sum_to_one: bool = False,
    levels: int = LEVELS,
    seed: int = 0,
    max_trials: int = 60,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Weights that lose least of each source's held-out loss, on the mean over sources; clips and noise stay the same.

    sum_to_one: search only weights of a weighted average. The family is given back bare. progress: hears (trials done,
    at most). InputError for fewer than two sources, one without clips, or a family with adapters on it.
    """
    if len(sources) < 2:
        raise InputError(f"a search needs at least two adapters, found {len(sources)}")
    if bare := [source.name for source in sources if not source.clips]:
        raise InputError(
            f"there are no held-out recordings for {', '.join(bare)}; every adapter needs"
            " a dataset folder, whose songs are described"
        )
    if len({source.name for source in sources}) < len(sources):
        raise InputError("two adapters have the same name; rename one")
    if names := attached_names(family.network):
        raise InputError(f"{', '.join(names)} is attached; unload it, so that the base is measured")
    if max_trials < 1:
        raise InputError(f"max_trials is {max_trials}; at least 1 is needed")
    sigmas = training_levels(family, levels)
    attached: list[str] = []
    try:
        for source in sources:
            attach(family.network, source.adapter, name=source.name, weight=0.0)
            attached.append(source.name)
        return _search(family, sources, sigmas, sum_to_one, seed, max_trials, progress)
    finally:
        for name in attached:
            detach(family.network, name)


def _search(
    family: Family,
    sources: Sequence[SearchedSource],
    sigmas: Tensor,
    sum_to_one: bool,
    seed: int,
    max_trials: int,
    progress: Callable[[int, int], None] | None,
) -> SearchResult:
    def losses(weights: Mapping[str, float]) -> list[float]:
        set_weights(family.network, {source.name: weights.get(source.name, 0.0) for source in sources})
        return [float(clip_losses(family, source.clips, sigmas, seed=seed).mean()) for source in sources]

    base = losses({})
    alone = [losses({source.name: 1.0})[index] for index, source in enumerate(sources)]
    tried: dict[tuple[float, ...], tuple[float, list[float]]] = {}

    def lost(weights: tuple[float, ...]) -> float:
        if weights not in tried:
            found = losses(dict(zip((source.name for source in sources), weights, strict=True)))
            mean = sum(now / own - 1 for now, own in zip(found, alone, strict=True)) / len(found)
            tried[weights] = (mean, found)
            if progress is not None:
                progress(len(tried), max_trials)
        return tried[weights][0]

    # Between the average and the sum lies most of what works.
    best = _on_grid([1 / len(sources)] * len(sources), sum_to_one)
    lost(best)
    step = FIRST_STEP
    while step >= LAST_STEP and len(tried) < max_trials:
        before = best
        for weights in _neighbours(best, step, sum_to_one):
            if len(tried) < max_trials and lost(weights) < lost(best):
                best = weights
        if best == before:
            step /= 2
    merged = tried[best][1]
    return SearchResult(
        weights=best,
        sources=tuple(
            SourceLoss(source.name, base[index], alone[index], merged[index]) for index, source in enumerate(sources)
        ),
        trials=tuple((weights, mean) for weights, (mean, _) in tried.items()),
    )


def _neighbours(weights: tuple[float, ...], step: float, sum_to_one: bool) -> list[tuple[float, ...]]:
    """One weight up or down; where they sum to one, the others share what it gives or takes."""
    found = []
    for index in range(len(weights)):
        for change in (step, -step):
            moved = list(weights)
            moved[index] += change
            if sum_to_one:
                moved = [w - change / (len(weights) - 1) if i != index else w for i, w in enumerate(moved)]
            if all(-1e-9 <= weight <= LARGEST for weight in moved):
                found.append(_on_grid(moved, sum_to_one))
    return found


def _on_grid(weights: Sequence[float], sum_to_one: bool) -> tuple[float, ...]:
    """Rounded, so that a place that was tried is known again."""
    rounded = [max(0.0, round(weight, 4)) for weight in weights]
    total = sum(rounded)
    return tuple(round(weight / total, 4) if sum_to_one and total else weight for weight in rounded)
