"""How strong a LoRA should be: what each strength gains towards the style, and what it harms.

A strength is good where the aim is gained beyond doubt (the interval of its change lies below zero) and nothing is
harmed beyond doubt. Of the good ones the lowest is recommended that has nearly all of the best one's gain: what a
higher one adds is within the error, and the base's other abilities suffer with strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from acestep.evaluation.held_out import LossComparison
from acestep.evaluation.measures import Figure

ENOUGH_GAIN = 0.9
"""Share of the best gain that a lower strength must have to be preferred."""
OVERSHOOT = 0.5
SAME = 1e-6
"""Songs that moved by less, in standard deviations a feature, are the base's songs."""
AIMS = ("style", "distance_to_style", "held_out_loss")
"""Measures of the aim, the most sensitive on songs first; the first that could be made decides."""


@dataclass(frozen=True)
class AtStrength:
    """What was measured at one strength.

    moved, apart: see `measures.distance_from_base`; flaws: songs that are broken, silent or clipped where the base's is
    not, by flaw; damage: what else was harmed, in words; songs: how many could be measured.
    """

    strength: float
    figures: tuple[Figure, ...] = ()
    losses: LossComparison | None = None
    moved: float = 0.0
    apart: float = float("nan")
    songs: int = 0
    flaws: Mapping[str, int] = field(default_factory=dict)
    damage: tuple[str, ...] = ()

    def figure(self, key: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.key == key), None)

    @property
    def aim(self) -> Figure | None:
        return next((figure for key in AIMS if (figure := self.figure(key)) is not None), None)

    @property
    def gain(self) -> float:
        """How much nearer to the recordings songs come than the base's; past them, nearness is lost again."""
        aim = self.aim
        if aim is None:
            return 0.0
        adapted = aim.base + aim.change.value
        if aim.key != "style" or aim.recordings is None:
            return aim.base - adapted
        return abs(aim.base - aim.recordings) - abs(adapted - aim.recordings)

    @property
    def gains(self) -> bool:
        return self.aim is not None and self.aim.change.falls and self.gain > 0

    @property
    def overshoots(self) -> bool:
        """Songs lie beyond the recordings, seen from the base, by half of the way to them or more, beyond doubt."""
        style = self.figure("style")
        if style is None or style.recordings is None:
            return False
        beyond = style.recordings - (style.base + style.change.high)
        return beyond > OVERSHOOT * (style.base - style.recordings) > 0

    @property
    def harms(self) -> tuple[str, ...]:
        """What is worse than with the base beyond doubt, in words."""
        found = list(self.damage)
        if self.overshoots:
            found.append("songs overshoot the style")
        loss = self.figure("held_out_loss")
        if loss is not None and loss.change.rises:
            found.append("held-out loss rises")
        found += [f"{count} song{'s' if count > 1 else ''} {flaw}" for flaw, count in self.flaws.items() if count]
        return tuple(found)


@dataclass(frozen=True)
class StrengthCurve:
    """Strengths in rising order, the good ones among them, and which to use; None where none is known to be good."""

    points: tuple[AtStrength, ...]
    good: tuple[float, ...]
    recommended: float | None
    reason: str

    @property
    def aim(self) -> str | None:
        """The key of the measure that decided."""
        aims = [point.aim for point in self.points]
        return aims[0].key if aims and aims[0] is not None else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "aim": self.aim,
            "points": [_point(point) for point in self.points],
            "good": list(self.good),
            "recommended": self.recommended,
            "reason": self.reason,
        }


def judge_strengths(measured: Sequence[AtStrength]) -> StrengthCurve:
    """measured: one a strength, the base left out."""
    points = tuple(sorted(measured, key=lambda point: point.strength))
    if all(point.songs > 0 and point.moved < SAME for point in points):
        return StrengthCurve(points, (), None, "no strength has a measurable effect")
    if all(point.aim is None for point in points):
        return StrengthCurve(points, (), None, "without recordings of the style it is not known what is gained")
    good = [point for point in points if point.strength > 0 and point.gains and not point.harms]
    if not good:
        gaining = [point for point in points if point.gains]
        reason = "no strength gains the aim beyond doubt"
        if gaining:
            told = "; ".join(f"at {point.strength:g} {', '.join(point.harms)}" for point in gaining)
            reason = f"what gains the aim also harms: {told}"
        return StrengthCurve(points, (), None, reason)
    best = max(point.gain for point in good)
    chosen = next(point for point in good if point.gain >= ENOUGH_GAIN * best)
    reason = f"the lowest strength with at least {ENOUGH_GAIN:.0%} of the best gain, and without measured harm"
    return StrengthCurve(points, tuple(point.strength for point in good), chosen.strength, reason)


def _point(point: AtStrength) -> dict[str, Any]:
    loss = point.figure("held_out_loss")
    return {
        "strength": point.strength,
        "aim": None if point.aim is None else point.aim.change.as_dict(),
        "held_out_loss": None if loss is None else loss.change.as_dict(),
        "moved": point.moved,
        "songs": point.songs,
        "harms": list(point.harms),
    }
