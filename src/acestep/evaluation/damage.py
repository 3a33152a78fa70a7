"""How much of the base a LoRA costs, on prompts that have nothing to do with its style.

A LoRA is meant to change its style's prompts. What it does to all others is measured against what the base does by
itself: a song of another seed is the base's own kind of different. Prompts should stay as different from each other as
they were, songs should not break, tempo and key be kept, and the base's own songs be predicted as well as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acestep.errors import InputError
from acestep.evaluation.adherence import Adherence, measure_adherence
from acestep.evaluation.distance import EmbeddingSpace
from acestep.evaluation.held_out import LossComparison
from acestep.evaluation.suite import EdgePrompt
from acestep.evaluation.suite_songs import FLAWS, SuiteSong
from acestep.evaluation.uncertainty import Estimate, Indices, bootstrap_change, paired_change

Floats = NDArray[np.float64]

# What counts as harm: an interval that lies beyond these as a whole. The demo's LoRA on nano passes none of them at
# strengths 0.5 and 1, and two at 2; by then a key that a prompt names is no longer kept.
FAR = 3.0
"""Distances of another seed that songs outside the style may move."""
LESS_VARIED = 0.9
"""Prompts that lie this share as far apart as with the base, or less, have become alike."""
TOLD_APART_LOST = 0.05
RECOGNISED_LOST = 0.1
LOSS_RISEN = 0.5
"""Any LoRA raises the loss on the base's own songs: nothing predicts them as well as what made them."""


@dataclass(frozen=True)
class Rate:
    """How many songs have a flaw, with the base and with the LoRA; fresh: with the LoRA and not with the base.

    fresh_rate: their share of all songs with its exact binomial interval (Clopper and Pearson 1934).
    """

    flaw: str
    base: int
    adapted: int
    fresh: int
    fresh_rate: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {
            "flaw": self.flaw,
            "base": self.base,
            "lora": self.adapted,
            "fresh": self.fresh,
            "fresh_rate": self.fresh_rate.as_dict(),
        }


class Chances(NamedTuple):
    """A chance with the base and with the LoRA, and the paired change over prompts."""

    base: float
    adapted: float
    change: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {"base": self.base, "lora": self.adapted, "change": self.change.as_dict()}


@dataclass(frozen=True)
class EdgeOutcome:
    """What became of one edge prompt: "song", "refused", or what is wrong with it."""

    id: str
    expected: str
    base: str
    adapted: str
    said: str = ""

    @property
    def broke(self) -> bool:
        """Wrong with the LoRA where the base was right, or had at least a song."""
        return self.adapted != self.base and self.adapted != self.expected

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "expected": self.expected,
            "base": self.base,
            "lora": self.adapted,
            "broke": self.broke,
            "said": self.said,
        }


@dataclass(frozen=True)
class Damage:
    """What is left of the base at one strength, on prompts outside the style.

    moved: distance of songs from the base's of equal prompt and seed, in distances between the base's songs of
    different seeds: 0 is the base, 1 is as far as another seed; None with one seed alone. A little above 1 is no harm,
    since some bases hardly vary with the seed. variety: how far apart songs of different prompts lie, over how far they
    lay with the base: 1 is unchanged. told_apart: the chance that a song is nearer to one of its own prompt than to one
    of another (0.5: prompts make no difference), with the base, with the LoRA, and the change. recognised: the same
    chance among the base's songs of other seeds: whether a prompt still gives what it gave. brightness_db: change of
    the spectrum's slope an octave; loudness_db: of the loudness. losses: on the base's own songs. left_out: what could
    not be measured, and why.
    """

    songs: int
    prompts: int
    moved: Estimate | None
    variety: Estimate | None
    told_apart: Chances | None
    recognised: Chances | None
    brightness_db: Estimate | None
    loudness_db: Estimate | None
    rates: tuple[Rate, ...]
    losses: LossComparison | None
    adherence: Adherence | None
    edge: tuple[EdgeOutcome, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def loss_rise(self) -> Estimate | None:
        """Of the denoising loss, as a share of the base's."""
        if self.losses is None or not self.losses.base:
            return None
        change, base = self.losses.change, self.losses.base
        return Estimate(change.value / base, change.low / base, change.high / base, change.count)

    @property
    def broken_edges(self) -> tuple[EdgeOutcome, ...]:
        return tuple(edge for edge in self.edge if edge.broke)

    @property
    def harms(self) -> tuple[str, ...]:
        """What is worse than with the base beyond doubt, in words; none where nothing is certain."""
        found = [f"{rate.fresh} of {self.songs} songs {_FLAW_WORDS[rate.flaw]}" for rate in self.rates if rate.fresh]
        if self.moved is not None and self.moved.low > FAR:
            found.append(f"songs outside the style move {self.moved.value:.1f} times as far as another seed would")
        if self.variety is not None and self.variety.high < LESS_VARIED:
            found.append(f"songs of different prompts lie {self.variety.value:.0%} as far apart as with the base")
        if (told := self.told_apart) is not None and told.change.high < -TOLD_APART_LOST:
            found.append(f"prompts are told apart in {told.adapted:.0%} of comparisons, {told.base:.0%} with the base")
        if (known := self.recognised) is not None and known.change.high < -RECOGNISED_LOST:
            found.append(
                f"songs resemble what their prompt gave before in {known.adapted:.0%} of comparisons, {known.base:.0%} "
                "with the base"
            )
        if self.loss_rise is not None and self.loss_rise.low > LOSS_RISEN:
            found.append(f"the base's own songs are predicted {self.loss_rise.value:.0%} worse")
        if self.adherence is not None:
            found += [
                f"the {kept.key} in prompts is kept less ({kept.adapted:.0%}, {kept.base:.0%} with the base)"
                for kept in self.adherence.kept
                if kept.is_lost
            ]
        found += [f"the edge prompt {edge.id!r} gives {edge.adapted}, not {edge.base}" for edge in self.broken_edges]
        return tuple(found)

    @property
    def summary(self) -> str:
        """In a sentence or two."""
        if self.harms:
            return f"Outside its style the LoRA does harm: {'; '.join(self.harms)}."
        said = f"No damage was measured on {self.songs} songs of {self.prompts} prompts outside the style"
        if self.moved is not None:
            said += f"; they move {self.moved.value:.2f} times as far as another seed would"
        return said + "."

    def as_dict(self) -> dict[str, Any]:
        return {
            "songs": self.songs,
            "prompts": self.prompts,
            "summary": self.summary,
            "harms": list(self.harms),
            "moved": _told(self.moved),
            "variety": _told(self.variety),
            "told_apart": None if self.told_apart is None else self.told_apart.as_dict(),
            "recognised": None if self.recognised is None else self.recognised.as_dict(),
            "brightness_db_per_octave": _told(self.brightness_db),
            "loudness_db": _told(self.loudness_db),
            "rates": [rate.as_dict() for rate in self.rates],
            "loss_rise": _told(self.loss_rise),
            "adherence": None if self.adherence is None else self.adherence.as_dict(),
            "edge": [edge.as_dict() for edge in self.edge],
            "left_out": [{"measure": measure, "why": why} for measure, why in self.left_out],
        }


_FLAW_WORDS = dict(zip(FLAWS, ("fall silent", "clip", "hold NaN", "cannot be made"), strict=True))


def measure_damage(
    base: Sequence[SuiteSong],
    adapted: Sequence[SuiteSong],
    *,
    losses: LossComparison | None = None,
    edge_base: Sequence[SuiteSong] = (),
    edge_adapted: Sequence[SuiteSong] = (),
) -> Damage:
    """base, adapted: the same prompts and seeds in the same order, as `suite_songs.play_suite` gives them.

    losses: of `held_out.compare_losses` on the base's own songs (`probes.probe_of`). A pair of which one is silent,
    broken or missing counts in the rates alone. InputError where songs are not in pairs.
    """
    for own, other in ((base, adapted), (edge_base, edge_adapted)):
        if [_asked(song) for song in own] != [_asked(song) for song in other]:
            raise InputError("the base's and the LoRA's songs are not of the same prompts and seeds; pair them")
    pairs = [
        (one, two, one.windows, two.windows)
        for one, two in zip(base, adapted, strict=True)
        if one.windows is not None and two.windows is not None
    ]
    groups = [_prompt(song) for song, *_ in pairs]
    left_out: list[tuple[str, str]] = []
    moved = variety = told_apart = recognised = brightness = loudness = adherence = None
    if pairs:
        space = EmbeddingSpace.fit([windows for _, _, windows, _ in pairs])
        before = np.stack([space.scores(windows).mean(0) for _, _, windows, _ in pairs])
        after = np.stack([space.scores(windows).mean(0) for _, _, _, windows in pairs])
        same = np.array([[one == other for other in groups] for one in groups])
        moved, variety, told_apart, recognised = _distances(before, after, same, groups)
        brightness = paired_change(
            [a.brightness_db for a, *_ in pairs], [b.brightness_db for _, b, *_ in pairs], groups
        )
        loudness = paired_change([a.loudness_lufs for a, *_ in pairs], [b.loudness_lufs for _, b, *_ in pairs], groups)
        adherence = measure_adherence(
            [a.prompt.prompt for a, *_ in pairs], [a.heard for a, *_ in pairs], [b.heard for _, b, *_ in pairs]
        )
        left_out += adherence.left_out
    if moved is None:
        left_out.append(("distance from the base", "it needs two seeds a prompt" if pairs else "no pair of songs"))
    if variety is None:
        left_out.append(("prompts told apart", f"it needs songs of two prompts, not {len(set(groups))}"))
    if losses is None:
        left_out.append(("loss on the base's own songs", "it was not measured"))
    return Damage(
        songs=len(base),
        prompts=len({_prompt(song) for song in base}),
        moved=moved,
        variety=variety,
        told_apart=told_apart,
        recognised=recognised,
        brightness_db=brightness,
        loudness_db=loudness,
        rates=tuple(_rate(flaw, base, adapted) for flaw in FLAWS) if base else (),
        losses=losses,
        adherence=adherence,
        edge=tuple(_edge(one, two) for one, two in zip(edge_base, edge_adapted, strict=True)),
        left_out=tuple(left_out),
    )


def binomial_interval(found: int, count: int, *, level: float = 0.95) -> Estimate:
    """A share with its exact interval (Clopper and Pearson 1934): no flaw in 20 songs may still be one in six."""
    tail = (1 - level) / 2
    low = 0.0 if found == 0 else _crossing(lambda p: 1 - _at_most(found - 1, count, p), tail)
    high = 1.0 if found == count else _crossing(lambda p: -_at_most(found, count, p), -tail)
    return Estimate(found / count, low, high, count)


def _distances(
    before: Floats, after: Floats, same: NDArray[np.bool_], groups: Sequence[Hashable]
) -> tuple[Estimate | None, Estimate | None, Chances | None, Chances | None]:
    """before, after: mean scores of each song, (songs, dims); same: which are of one prompt, (songs, songs)."""
    shifts = _norm(after - before)
    own, adapted = _between(before), _between(after)
    alike = same & ~np.eye(len(same), dtype=bool)
    has_twin = alike.any(1)
    moved = variety = told_apart = recognised = None
    if has_twin.all():
        seeds = (own * alike).sum(1) / alike.sum(1)
        moved = bootstrap_change(lambda rows: _ratio(shifts[rows].mean(), seeds[rows].mean()), groups)
    if not same.all():

        def spread(rows: Indices) -> float:
            others = ~same[np.ix_(rows, rows)]
            # A draw may hold one prompt alone, of which nothing can be said.
            picked = np.ix_(rows, rows)
            return _ratio(adapted[picked][others].mean(), own[picked][others].mean()) if others.any() else 1.0

        variety = bootstrap_change(spread, groups)
        if has_twin.all():
            across = np.stack([_norm(before - one) for one in after])
            chances = _told_apart(own, alike, same)
            told_apart, recognised = (
                Chances(float(chances.mean()), float(found.mean()), paired_change(chances, found, groups))
                for found in (_told_apart(adapted, alike, same), _told_apart(across, alike, same))
            )
    return moved, variety, told_apart, recognised


def _told_apart(distances: Floats, alike: NDArray[np.bool_], same: NDArray[np.bool_]) -> Floats:
    """For each song the chance that one of its prompt is nearer than one of another; ties count half. -> (songs,)"""
    chances = []
    for row, twins, own in zip(distances, alike, same, strict=True):
        near, far = row[twins][:, None], row[~own]
        chances.append(float((near < far).mean() + 0.5 * (near == far).mean()))
    return np.array(chances)


def _between(scores: Floats) -> Floats:
    """(songs, dims) -> root mean square differences, (songs, songs)"""
    return np.stack([_norm(scores - one) for one in scores])


def _norm(differences: Floats) -> Floats:
    return np.asarray(np.sqrt((differences**2).mean(-1)))


def _ratio(part: float, whole: float) -> float:
    """Songs that cannot differ by themselves make any change endless; none stays none."""
    if whole > 0:
        return float(part / whole)
    return 0.0 if part == 0 else math.inf


def _rate(flaw: str, base: Sequence[SuiteSong], adapted: Sequence[SuiteSong]) -> Rate:
    fresh = sum(two.outcome == flaw and not one.has_flaw for one, two in zip(base, adapted, strict=True))
    before, after = (sum(song.outcome == flaw for song in songs) for songs in (base, adapted))
    return Rate(flaw, before, after, fresh, binomial_interval(fresh, len(base)))


def _edge(base: SuiteSong, adapted: SuiteSong) -> EdgeOutcome:
    prompt = base.prompt
    if not isinstance(prompt, EdgePrompt):
        raise InputError(f"{prompt.prompt[:60]!r} is no edge prompt; give those of a suite's `edge`")
    return EdgeOutcome(prompt.id, prompt.expect, base.outcome, adapted.outcome, adapted.said)


def _asked(song: SuiteSong) -> tuple[str, str, int]:
    return (*_prompt(song), song.seed)


def _prompt(song: SuiteSong) -> tuple[str, str]:
    return song.prompt.prompt, song.prompt.lyrics


def _at_most(found: int, count: int, chance: float) -> float:
    return math.fsum(math.comb(count, k) * chance**k * (1 - chance) ** (count - k) for k in range(found + 1))


def _crossing(rising: Callable[[float], float], wanted: float) -> float:
    """Where a rising function of a share reaches a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


def _told(estimate: Estimate | None) -> dict[str, float | int | None] | None:
    if estimate is None:
        return None
    told = estimate.as_dict()
    return {**told, "value": estimate.value if math.isfinite(estimate.value) else None}
