"""What ails a run, told from its own numbers: pure functions of its history.

Each finding is what the numbers show, in words, with what to change. By simulation, one healthy run of 60 epochs in
fifty is spoken of when it is judged after every epoch, of eight tracks one in twenty-five; tests hold that, and that
true cases are found. Means over few tracks are compared in pairs (Student), outliers against medians and Qn (Rousseeuw
and Croux 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acestep.training.expected_loss import cost_of_level
from acestep.training.history import ExampleColumns, RunHistory, StepColumns
from acestep.training.results import ValidationResult
from acestep.training.significance import two_sided_p
from acestep.wording import names_text

Floats = NDArray[np.float64]
Kind = Literal["overfitting", "underfitting", "collapse", "instability", "data"]

SMOOTHED = 3
"""Validations, and epochs of training, that one state of the run is judged by: single ones wander."""
_SURE = 0.01
_WANDERING = 4.0
_LEAST_RISE = 0.005
_STILL, _LEAST_FALL = 0.05, 0.01
_ALIKE, _ALL_ALIKE = 0.8, 0.95
_SPIKE_SPREADS, _SPIKE_FACTOR, _SPIKES, _SPIKE_STEPS = 6.0, 5.0, 4, 100
_GROWTH = 5.0
_JUMP, _JUMP_SPREADS, _JUMP_EPOCHS = 1.3, 6.0, 40
_OUTLIER_SPREADS, _OUTLIER_FACTOR = 4.0, 1.5
_FEWEST_EXAMPLES = 40
_FEWEST_TRACKS = 8
_FEWEST_VISITS = 4


@dataclass(frozen=True)
class Finding:
    """subjects: what a finding of that kind is about, so that the same is told once; evidence: JSON values."""

    kind: Kind
    subjects: tuple[str, ...]
    message: str
    advice: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Of the training loss between two stretches, as a share of it; standard_error alike, with its degrees of freedom;
    p_value: of no change at all.
    """

    share: float
    standard_error: float
    degrees: int
    p_value: float


def diagnose(history: RunHistory) -> tuple[Finding, ...]:
    """All that can be said of a run so far; nothing where nothing is wrong, or too little is known."""
    finders: tuple[Callable[[RunHistory], Finding | None], ...] = (
        find_instability,
        find_overfitting,
        find_underfitting,
        find_collapse,
        find_data_trouble,
    )
    return tuple(finding for find in finders if (finding := find(history)) is not None)


def find_overfitting(history: RunHistory) -> Finding | None:
    """The held-out loss rises from its lowest while the training loss goes on falling.

    Both ends are means of three validations. The rise must be sure over tracks (p < 0.01, in pairs), larger than four
    times what the curve wanders from look to look, and half a percent of the loss at least; the training loss must fall
    between the same epochs (p < 0.1). A single held-out track is judged by the curve alone, and by half as much again.
    """
    looks = _comparable(history.validations)
    if len(looks) < 2 * SMOOTHED:
        return None
    curve = np.convolve([look.val_loss for look in looks], np.ones(SMOOTHED) / SMOOTHED, mode="valid")
    best = int(curve[: len(curve) - SMOOTHED + 1].argmin())
    rise = float(curve[-1] - curve[best])
    alone = len(looks[-1].by_track) < 2
    least = (1.5 if alone else 1.0) * _WANDERING * _wandering([look.val_loss for look in looks])
    if rise <= max(least, _LEAST_RISE * float(curve[best])):
        return None
    lowest, newest = looks[best : best + SMOOTHED], looks[-SMOOTHED:]
    if not alone and _paired_p(_log_changes(lowest, newest)) >= _SURE:
        return None
    epoch = lowest[SMOOTHED // 2].epoch
    train = training_change(history.steps, until=epoch)
    if train is None or train.share >= 0 or train.p_value >= 0.1:
        return None
    strong = rise > 0.1 * float(curve[best])
    rate, dropout = _setting(history, "training.learning_rate", 1e-4), _setting(history, "lora.dropout", 0.1)
    rank = _setting(history, "lora.rank", 32)
    return Finding(
        kind="overfitting",
        subjects=("begun", "strong") if strong else ("begun",),
        message=(
            f"It learns its tracks by heart: since epoch {epoch} the held-out loss rose by {rise / curve[best]:.1%}"
            f" ({curve[best]:.4f} to {curve[-1]:.4f}) while the training loss fell by {-train.share:.1%}"
            + (", on a single held-out track." if alone else ".")
        ),
        advice=(
            f"Use the state of about epoch {epoch}: training.early_stopping: {{patience: 5}} keeps the best. To get"
            f" further, add tracks or data.augmentation, or set training.learning_rate: {_short(rate / 2)},"
            f" lora.rank: {max(int(rank) // 2, 1)}, lora.dropout: {_short(min(max(2 * dropout, 0.1), 0.5))}."
        ),
        evidence={
            "best_epoch": epoch, "lowest": float(curve[best]), "newest": float(curve[-1]), "train_change": train.share,
            "held_out_tracks": len(looks[-1].by_track),
        },
    )  # fmt: skip


def find_underfitting(history: RunHistory, *, epochs: int = 10, steps: int = 50) -> Finding | None:
    """After `epochs` and `steps`, neither loss has moved, and that is sure: where either can have moved by more than
    5 %, or the held-out loss surely fell by 1 %, nothing is said. Of the training loss, halves of the run are compared.
    """
    if len(history.steps) < steps or int(history.steps.epoch.max()) < epochs:
        return None
    half = int(history.steps.epoch.max()) // 2
    train = training_change(history.steps, until=half, span=half)
    if train is None or abs(train.share) + 2 * (1 + 4 / train.degrees) * train.standard_error > _STILL:
        return None
    looks = _comparable(history.validations)
    moved = None
    if len(looks) > SMOOTHED:
        changes = _log_changes(looks[:1], looks[-SMOOTHED:])
        moved = math.expm1(mean(changes))
        error = stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
        surely_fell = moved < -_LEAST_FALL and (len(changes) < 2 or _paired_p(changes) < _SURE)
        if surely_fell or abs(moved) + 2 * error > _STILL:
            return None
    rate, warmup = _setting(history, "training.learning_rate", 1e-4), _setting(history, "training.warmup_steps", 100)
    held_out = "" if moved is None else f" and the held-out loss by {moved:+.1%} since the start"
    slow = (
        f" The warmup of {int(warmup)} steps goes on: set training.warmup_steps: {max(len(history.steps) // 10, 1)}."
        if warmup >= len(history.steps)
        else ""
    )
    rank = int(_setting(history, "lora.rank", 32))
    return Finding(
        kind="underfitting",
        subjects=(),
        message=(
            f"It hardly learns: after {int(history.steps.epoch.max())} epochs the training loss moved by"
            f" {train.share:+.1%} between its halves{held_out}."
        ),
        advice=(
            f"Set training.learning_rate: {_short(3 * rate)}.{slow} If that is not enough, set lora.rank: {2 * rank}"
            " and adapt more with lora.target_modules."
        ),
        evidence={"train_change": train.share, "train_standard_error": train.standard_error, "val_change": moved},
    )


def find_collapse(history: RunHistory) -> Finding | None:
    """Songs of different prompts come out alike (0.8 of what sets the base's apart is gone in two rounds, or 0.95 in
    one), and the training loss no longer falls.
    """
    rounds = [(result.epoch, result.likeness) for result in history.samples if result.likeness is not None]
    if not rounds:
        return None
    newest = [likeness for _, likeness in rounds[-2:]]
    if newest[-1] < _ALL_ALIKE and (len(newest) < 2 or min(newest) < _ALIKE):
        return None
    train = training_change(history.steps, span=10)
    if train is not None and train.share < 0 and train.p_value < 0.05:
        return None
    rate = _setting(history, "training.learning_rate", 1e-4)
    return Finding(
        kind="collapse",
        subjects=(),
        message=(
            f"Its songs are alike whatever the prompt: at epoch {rounds[-1][0]}, {newest[-1]:.0%} of what sets the"
            " base's songs apart is gone, and the training loss no longer falls."
        ),
        advice=(
            f"Listen to the samples; use an earlier checkpoint. Then set training.learning_rate: {_short(rate / 3)},"
            f" lora.alpha: {_short(_setting(history, 'lora.alpha', 64.0) / 2)}, and give tracks prompts that tell them"
            " apart."
        ),
        evidence={"rounds": [{"epoch": epoch, "likeness": likeness} for epoch, likeness in rounds[-5:]]},
    )


def find_instability(history: RunHistory) -> Finding | None:
    """The gradient's norm spikes (four of the last hundred steps lie five times above the median, and six spreads) or
    grows (fivefold, through the whole run), or the training loss jumps (by 30 % from its lowest epoch, surely).
    """
    found = [told for told in (_spikes(history.steps), _growth(history.steps), _jump(history.steps)) if told]
    if not found:
        return None
    rate, norm = _setting(history, "training.learning_rate", 1e-4), _setting(history, "training.max_grad_norm", 1.0)
    usual = float(np.nanmedian(history.steps.grad_norm))
    clip = f", training.max_grad_norm: {_short(usual)}" if usual < norm else ""
    return Finding(
        kind="instability",
        subjects=tuple(name for name, _, _ in found),
        message=f"Training is unstable: {'; '.join(told for _, told, _ in found)}.",
        advice=(
            f"Set training.learning_rate: {_short(rate / 3)}{clip}, and a longer training.warmup_steps; go on from a"
            " checkpoint before it began. If precision is bf16, try fp32."
        ),
        evidence={name: figures for name, _, figures in found},
    )


def find_data_trouble(history: RunHistory) -> Finding | None:
    """Tracks whose loss stands out from the others', each example's divided by what its noise level costs.

    A track is told of where the median of its log losses lies a factor of 1.5 and four spreads, more where tracks are
    few, from the others'.
    """
    examples = history.steps.examples
    ratios = level_corrected(examples)
    if ratios is None:
        return None
    medians = {}
    for index, name in enumerate(examples.tracks):
        own = ratios[(examples.track == index) & np.isfinite(ratios)]
        if len(own) >= _FEWEST_VISITS:
            medians[name] = float(np.median(own))
    if len(medians) < _FEWEST_TRACKS:
        return None
    values = np.array(list(medians.values()))
    centre, spread = float(np.median(values)), max(_spread(values), 0.05)
    least = max(_OUTLIER_SPREADS * _few(len(values)) * spread, math.log(_OUTLIER_FACTOR))
    high = {name: math.exp(value - centre) for name, value in medians.items() if value - centre > least}
    low = {name: math.exp(value - centre) for name, value in medians.items() if centre - value > least}
    if not high and not low:
        return None
    told = [f"{_named(high, reverse=True)} {_are(high)} far harder than the others"] if high else []
    told += [f"{_named(low)} {_are(low)} far easier"] if low else []
    return Finding(
        kind="data",
        subjects=tuple(sorted([*high, *low])),
        message=f"Tracks stand out by their training loss: {', and '.join(told)}.",
        advice=(
            "Listen to them in data.train_dir. Hard ones are often noise, speech, a wrong file or a prompt that does"
            " not fit; easy ones silence, a single held tone or many copies. Mend them or take them out."
        ),
        evidence={"harder": high, "easier": low, "spread": spread, "tracks": len(medians)},
    )


def level_corrected(examples: ExampleColumns) -> Floats | None:
    """Log of each example's loss over what its noise level costs in this run -> (examples,), NaN where unusable.

    None where there are too few to tell what a level costs.
    """
    usable = np.isfinite(examples.sigma) & np.isfinite(examples.loss) & (examples.loss > 0)
    if int(usable.sum()) < _FEWEST_EXAMPLES:
        return None
    found = np.full(len(examples.loss), np.nan)
    sigma, loss = examples.sigma[usable], examples.loss[usable]
    cost = cost_of_level(sigma, loss) if np.ptp(sigma) > 0 else np.full(len(loss), loss.mean())
    found[usable] = np.log(loss / cost)
    return found


def training_change(steps: StepColumns, *, until: int | None = None, span: int = SMOOTHED) -> Change | None:
    """How the training loss moved from one stretch of `span` epochs to the newest, or of as many as there are.

    The first stretch ends with epoch `until`; None takes those just before the newest.
    Levels are corrected for and tracks are compared with themselves, since every epoch sees each of them once. None
    where too little is known.
    """
    ratios = level_corrected(steps.examples)
    if ratios is None:
        return None
    examples = steps.examples
    epoch = steps.epoch[examples.row]
    last = int(epoch.max())
    span = min(span, last // 2 if until is None else last - until)
    if span < 1:
        return None
    end = last - span if until is None else max(until, span)
    usable = np.isfinite(ratios)
    before = usable & (epoch > end - span) & (epoch <= end)
    after = usable & (epoch > last - span)
    tracks = np.intersect1d(examples.track[before], examples.track[after])
    if len(tracks) >= 4:
        changes = [
            ratios[after & (examples.track == t)].mean() - ratios[before & (examples.track == t)].mean() for t in tracks
        ]
        return _change(
            float(np.mean(changes)), float(np.std(changes, ddof=1)) / math.sqrt(len(tracks)), len(tracks) - 1
        )
    parts = ratios[before], ratios[after]
    if min(map(len, parts)) < 2:
        return None
    error = math.hypot(*(float(part.std(ddof=1)) / math.sqrt(len(part)) for part in parts))
    return _change(float(parts[1].mean() - parts[0].mean()), error, min(map(len, parts)) - 1)


def _change(logarithm: float, error: float, degrees: int) -> Change:
    p = two_sided_p(logarithm / error, degrees) if error > 0 else float(logarithm == 0)
    share = math.expm1(logarithm)
    return Change(share, (1 + share) * error, degrees, p)


def _comparable(validations: Sequence[ValidationResult]) -> list[ValidationResult]:
    """Those of the same tracks as the last one."""
    tracks = validations[-1].by_track.keys() if validations else set()
    return [look for look in validations if look.by_track.keys() == tracks and math.isfinite(look.val_loss)]


def _log_changes(before: Sequence[ValidationResult], after: Sequence[ValidationResult]) -> list[float]:
    """Of each track, between the means of some looks and of others. In logarithms tracks move alike, hard and easy."""
    return [
        math.log(mean(look.by_track[track] for look in after) / mean(look.by_track[track] for look in before))
        for track in before[0].by_track
    ]


def _paired_p(changes: Sequence[float]) -> float:
    error = stdev(changes) / math.sqrt(len(changes))
    return two_sided_p(mean(changes) / error, len(changes) - 1) if error > 0 else float(mean(changes) == 0)


def _wandering(curve: Sequence[float]) -> float:
    """How far a curve strays from its own course: the spread of second differences, which a steady slope has none of.

    They have six times the variance of the points.
    """
    second = np.diff(curve, n=2)
    return math.sqrt(float(np.mean(np.square(second))) / 6)


def _spread(values: Floats) -> float:
    """A normal distribution's standard deviation, whatever a few of the values are (Qn, Rousseeuw and Croux 1993).

    Twice as sure as the median absolute deviation of the same values. Looks at pairs, of the first 1000.
    """
    few = values[:1000]
    count = len(few)
    half = count // 2 + 1
    apart = np.abs(few[:, None] - few[None, :])[np.triu_indices(count, 1)]
    smaller = count / (count + (1.4 if count % 2 else 3.8))
    return 2.2219 * smaller * float(np.partition(apart, half * (half - 1) // 2 - 1)[half * (half - 1) // 2 - 1])


def _few(count: int) -> float:
    """How much wider a threshold in spreads must be where a spread of so few values may itself be far too small."""
    return 1 + 8 / count


def _spikes(steps: StepColumns) -> tuple[str, str, dict[str, Any]] | None:
    norms = steps.grad_norm[np.isfinite(steps.grad_norm) & (steps.grad_norm > 0)][-4 * _SPIKE_STEPS :]
    if len(norms) < _SPIKE_STEPS // 2:
        return None
    logs = np.log(norms)
    centre = float(np.median(logs))
    least = centre + max(_SPIKE_SPREADS * _spread(logs), math.log(_SPIKE_FACTOR))
    spikes = int((logs[-_SPIKE_STEPS:] > least).sum())
    if spikes < _SPIKES:
        return None
    highest = float(np.exp(logs[-_SPIKE_STEPS:].max()))
    told = (
        f"in {spikes} of the last {min(len(logs), _SPIKE_STEPS)} steps the gradient's norm was far above its"
        f" median of {math.exp(centre):.3g}, up to {highest:.3g}"
    )
    return "spikes", told, {"count": spikes, "median": math.exp(centre), "highest": highest}


def _growth(steps: StepColumns) -> tuple[str, str, dict[str, Any]] | None:
    norms = steps.grad_norm[np.isfinite(steps.grad_norm)]
    if len(norms) < _SPIKE_STEPS:
        return None
    # B starts at zero, so the first gradients say little of those to come.
    quarters = [float(np.median(part)) for part in np.array_split(norms[len(norms) // 10 :], 4)]
    rising = all(one < other for one, other in pairwise(quarters))
    if not rising or quarters[-1] < _GROWTH * quarters[0]:
        return None
    told = f"the gradient's norm grew from {quarters[0]:.3g} to {quarters[-1]:.3g} and still grows"
    return "growth", told, {"first": quarters[0], "last": quarters[-1]}


def _jump(steps: StepColumns) -> tuple[str, str, dict[str, Any]] | None:
    ratios = level_corrected(steps.examples)
    if ratios is None:
        return None
    epoch = steps.epoch[steps.examples.row]
    # Whole epochs, because each holds every track once.
    means = np.array([np.nanmean(ratios[epoch == number]) for number in np.unique(epoch)[-_JUMP_EPOCHS:]])
    if len(means) < 4:
        return None
    rise = float(means[-1] - means.min())
    # Neighbours differ by chance; what a jump is has to be far beyond that.
    chance = _spread(np.diff(means)) / math.sqrt(2)
    if math.expm1(rise) < _JUMP - 1 or rise < _JUMP_SPREADS * _few(len(means)) * max(chance, 1e-6):
        return None
    return "loss", f"the training loss is {math.exp(rise):.1f} times its lowest", {"times": math.exp(rise)}


def _setting(history: RunHistory, name: str, default: float) -> float:
    """Of the run's config.yaml, as a number."""
    value: Any = history.config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _named(factors: Mapping[str, float], *, reverse: bool = False) -> str:
    """The farthest first, five at most: a.wav (3.2 times), b.wav (2.1 times)"""
    order = sorted(factors.items(), key=lambda item: item[1], reverse=reverse)
    return names_text([f"{name} ({factor:.2g} times the median)" for name, factor in order])


def _are(names: Mapping[str, float]) -> str:
    return "is" if len(names) == 1 else "are"


def _short(value: float) -> str:
    return f"{value:.2g}"
