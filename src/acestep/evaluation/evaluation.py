"""A LoRA's evaluation from end to end: songs with and without it, figures at each strength, and what they amount to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.errors import InputError, MissingWeightsError
from acestep.evaluation.findings import Finding
from acestep.evaluation.held_out import HeldOutClip, LossComparison, clip_losses, compare_losses, training_levels
from acestep.evaluation.measures import (
    FRECHET_WINDOWS,
    Figure,
    can_classify,
    count_windows,
    distance_figure,
    distance_from_base,
    frechet_figure,
    loss_figure,
    style_figure,
)
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.provenance import Provenance, describe_adapter, machine, prompts_sha256, versions
from acestep.evaluation.side_by_side import Comparison, Hear, Take, generate_comparisons
from acestep.evaluation.song_cache import SongCache, base_identity
from acestep.evaluation.strengths import SAME, AtStrength, StrengthCurve, judge_strengths
from acestep.pipeline import ACEStepPipeline, GenerationResult

MAX_STRENGTH = 10.0

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress]]
"""Opens a named stretch of work; what it gives hears (done, total)."""


class Listener:
    """A further measure: it hears every song while that is in memory, and is asked at the end."""

    title = "Measuring"

    def begin(self, pipeline: ACEStepPipeline) -> None:
        """Called while the base is still alone."""

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        """Called for each song that is not broken; comparison: prompt, seed and the takes before this one."""

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Sequence[Finding | tuple[str, str]]:
        """Findings, and (measure, why) for what is left out. The LoRA is attached under the name `lora`."""
        return ()

    def damage(self, strength: float) -> Sequence[str]:
        """What this strength harms beyond doubt, in words."""
        return ()


@dataclass(frozen=True)
class HeldOut:
    """Recordings of the style that were not trained on.

    windows: the embedding of each recording; clips: passages to measure the loss on, none where nothing describes them;
    dataset: what tells one dataset from another, for the report card.
    """

    windows: Sequence[NDArray[np.float64]] = ()
    clips: Sequence[HeldOutClip] = ()
    dataset: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What was found out about one LoRA.

    weight: the strength that `figures`, `losses` and `moved` are about; curve: all of them; findings: further measures;
    sampling: what was asked of the pipeline beside prompt, seed and duration; left_out: measures that could not be
    made, and why.
    """

    model: str
    fingerprint: str
    lora: str
    weight: float
    seeds: tuple[int, ...]
    duration_s: float
    comparisons: tuple[Comparison, ...]
    curve: StrengthCurve
    left_out: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def main(self) -> AtStrength:
        return next(point for point in self.curve.points if point.strength == self.weight)

    @property
    def strengths(self) -> tuple[float, ...]:
        """Without the base's 0, rising."""
        return tuple(point.strength for point in self.curve.points)

    @property
    def figures(self) -> tuple[Figure, ...]:
        return self.main.figures

    @property
    def losses(self) -> LossComparison | None:
        return self.main.losses

    @property
    def moved(self) -> float:
        return self.main.moved

    @property
    def apart(self) -> float:
        return self.main.apart

    @property
    def changes_nothing(self) -> bool:
        """The LoRA's songs sound as the base's to the last measure, at every strength."""
        return all(point.songs > 0 and point.moved < SAME for point in self.curve.points)

    @property
    def alarms(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.alarm)

    def figure(self, key: str) -> Figure | None:
        return self.main.figure(key)


def evaluate_lora(
    pipeline: ACEStepPipeline,
    lora: str | Path,
    prompts: Sequence[Prompt],
    *,
    folder: Path,
    strengths: Sequence[float] | None = None,
    weight: float | None = None,
    seeds: Sequence[int] = (1, 2),
    duration_s: float = 15.0,
    held_out: HeldOut | None = None,
    cache: SongCache | None = None,
    listeners: Sequence[Listener] = (),
    stage: Stage | None = None,
    **sampling: Any,
) -> Evaluation:
    """Songs of every prompt and seed with the base and with the LoRA in `folder`, and all measures that can be made.

    strengths: 0 is always among them; None is `weight` alone. weight: the strength to report on; None is 1, or the one
    nearest to it. held_out: None leaves out what needs recordings, and says so. cache: where the base's songs are kept.
    listeners: further measures. The pipeline is given back as it came. InputError for no prompts, no strength other
    than 0, one above 10, or LoRAs that are attached already; AdapterError for a LoRA of another base.
    """
    stage = stage or (lambda _: nullcontext(lambda _done, _total: None))
    chosen = _checked_strengths(strengths, weight)
    if not prompts or not seeds or not chosen:
        raise InputError("an evaluation needs at least one prompt, one seed and a weight other than 0")
    if pipeline.loras:
        raise InputError(f"the pipeline has {list(pipeline.loras)} attached; unload them, so that the base is heard")
    held_out = held_out or HeldOut()
    identity = base_identity(pipeline) if cache is not None else None
    for listener in listeners:
        listener.begin(pipeline)
    name = pipeline.load_lora(lora, chosen[0])
    try:
        losses: dict[float, LossComparison] = {}
        if held_out.clips:
            with stage("Held-out loss with and without the LoRA") as progress:
                losses = measure_losses(pipeline, name, chosen, held_out.clips, progress)
        with stage("Songs with and without the LoRA") as progress:
            comparisons = generate_comparisons(
                pipeline,
                name,
                prompts,
                seeds=seeds,
                strengths=(0.0, *chosen),
                duration_s=duration_s,
                folder=folder,
                identity=identity,
                cache=cache,
                hear=_all_hear(listeners),
                progress=progress,
                **sampling,
            )
        findings: list[Finding] = []
        unheard: list[tuple[str, str]] = []
        for listener in listeners:
            with stage(listener.title) as progress:
                found = listener.finish(pipeline, name, comparisons, progress)
            findings += [item for item in found if isinstance(item, Finding)]
            unheard += [item for item in found if not isinstance(item, Finding)]
    finally:
        pipeline.unload_lora(name)
    damage = {strength: [said for one in listeners for said in one.damage(strength)] for strength in chosen}
    points: list[AtStrength] = []
    left_out: list[tuple[str, str]] = []
    for strength in chosen:
        point, missing = _measure(comparisons, strength, held_out, losses.get(strength), damage[strength])
        points.append(point)
        left_out += [item for item in missing if item not in left_out]
    return Evaluation(
        model=pipeline.model,
        fingerprint=pipeline.family.fingerprint(),
        lora=str(lora),
        weight=_reported(chosen, weight),
        seeds=tuple(seeds),
        duration_s=duration_s,
        comparisons=tuple(comparisons),
        curve=judge_strengths(points),
        left_out=(*left_out, *unheard),
        findings=tuple(findings),
        sampling={name: value for name, value in sampling.items() if value is not None},
        provenance=Provenance(
            adapter=_described_adapter(lora),
            prompts=prompts_sha256(prompts),
            dataset=held_out.dataset,
            versions=versions(),
            machine=machine(pipeline.family.device),
        ),
    )


def verdict(evaluation: Evaluation) -> str:
    """What the figures amount to, in a sentence or two that claim no more than they show."""
    if evaluation.main.songs == 0:
        return "The model's songs hold NaN or infinity, with or without the LoRA; nothing can be said of it."
    if evaluation.changes_nothing:
        return (
            "This LoRA has no measurable effect: its songs equal the base model's. Usual causes: a weight near 0, "
            "another base model than it was trained on, or a training that never moved."
        )
    aimed = [figure for figure in evaluation.figures if figure.key != "held_out_loss"]
    loss = evaluation.figure("held_out_loss")
    if not aimed:
        spread = f" (base songs of different prompts lie {evaluation.apart:.2f} apart)" if evaluation.apart > 0 else ""
        return (
            f"The LoRA changes the songs by {evaluation.moved:.2f} standard deviations a feature{spread}. "
            "Whether it is the change you wanted needs recordings of the style to compare with."
        )
    nearer = [figure for figure in aimed if figure.change.falls]
    further = [figure for figure in aimed if figure.change.rises]
    if nearer and not further:
        measured = ", ".join(figure.short for figure in nearer)
        share = nearer[0].share_of_gap
        part = f", {share:.0%} of the way from the base to recordings of it" if share is not None else ""
        said = f"The LoRA moves songs towards the style{part} (measured by {measured})"
    elif further and not nearer:
        said = "The LoRA moves songs away from the style"
    elif nearer and further:
        said = "The measures disagree on whether songs move towards the style"
    else:
        said = "The songs were not measured to move towards the style: the interval holds zero"
    if loss is not None:
        changed = (loss.adapted - loss.base) / loss.base
        if loss.change.falls:
            said += f". Held-out loss falls by {-changed:.1%}"
        elif loss.change.rises:
            said += f". Held-out loss rises by {changed:.1%}: it predicts unseen recordings worse"
        else:
            said += ". Held-out loss does not change measurably"
    said += "."
    if (recommended := evaluation.curve.recommended) is not None and len(evaluation.strengths) > 1:
        said += f" Of the strengths tried, {recommended:g} is the one to use."
    return said


def _checked_strengths(strengths: Sequence[float] | None, weight: float | None) -> tuple[float, ...]:
    """Rising, each once, without 0."""
    given = [*(strengths or ()), *([] if weight is None else [weight])]
    if strengths is None and weight is None:
        given = [1.0]
    wrong = [strength for strength in given if not abs(strength) <= MAX_STRENGTH]
    if wrong:
        raise InputError(f"a strength is {wrong[0]:g}; give {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}")
    return tuple(sorted({float(strength) for strength in given} - {0.0}))


def _reported(strengths: Sequence[float], weight: float | None) -> float:
    return weight if weight is not None else min(strengths, key=lambda strength: (abs(strength - 1), strength))


def _described_adapter(lora: str | Path) -> dict[str, str]:
    try:
        return describe_adapter(lora)
    except (MissingWeightsError, OSError):  # the pipeline had it from elsewhere
        return {"name": str(lora)}


def _all_hear(listeners: Sequence[Listener]) -> Hear | None:
    if not listeners:
        return None

    def hear(comparison: Comparison, take: Take, song: GenerationResult) -> None:
        for listener in listeners:
            listener.hear(comparison, take, song)

    return hear


def measure_losses(
    pipeline: ACEStepPipeline,
    name: str,
    strengths: Sequence[float],
    clips: Sequence[HeldOutClip],
    progress: Progress | None = None,
) -> dict[float, LossComparison]:
    """Denoising loss on clips with the attached LoRA `name` at each strength against the base; a strength at which it
    is NaN has none. `progress` hears (clips done, clips), over all strengths.
    """
    sigmas = training_levels(pipeline.family)
    measured = {}
    for part, strength in enumerate((0.0, *strengths)):
        pipeline.set_lora_weights({name: strength})
        hear = partial(_shifted, progress, part * len(clips), (1 + len(strengths)) * len(clips)) if progress else None
        measured[strength] = clip_losses(pipeline.family, clips, sigmas, progress=hear)
    return {
        strength: compare_losses(measured[0.0], measured[strength], sigmas, clips)
        for strength in strengths
        if np.isfinite(measured[0.0]).all() and np.isfinite(measured[strength]).all()
    }


def _shifted(progress: Progress, offset: int, total: int, done: int, _part: int) -> None:
    progress(offset + done, total)


def _measure(
    comparisons: Sequence[Comparison],
    strength: float,
    held_out: HeldOut,
    losses: LossComparison | None,
    damage: Sequence[str],
) -> tuple[AtStrength, list[tuple[str, str]]]:
    flaws = {
        flaw: sum(flaw in set(c.at(strength).flaws) - set(c.at(0.0).flaws) for c in comparisons)
        for flaw in ("broken", "silent", "clipped")
    }
    heard = [c for c in comparisons if not c.at(0.0).is_broken and not c.at(strength).is_broken]
    if not heard:
        why = f"at strength {strength:g} every pair of songs holds NaN or infinity"
        return AtStrength(strength, losses=losses, flaws=flaws, damage=tuple(damage)), [("all measures on songs", why)]
    figures, left_out = _figures(heard, strength, held_out, losses)
    moved, apart = distance_from_base(heard, strength)
    point = AtStrength(
        strength=strength,
        figures=tuple(figures),
        losses=losses,
        moved=moved,
        apart=apart,
        songs=len(heard),
        flaws=flaws,
        damage=tuple(damage),
    )
    return point, left_out


def _figures(
    comparisons: Sequence[Comparison], weight: float, held_out: HeldOut, losses: LossComparison | None
) -> tuple[list[Figure], list[tuple[str, str]]]:
    figures, left_out = [], []
    if losses is not None:
        figures.append(loss_figure(losses))
    else:
        left_out.append(("held-out loss", "it needs recordings of the style with prompts, none of them trained on"))
    if held_out.windows:
        if can_classify(comparisons, held_out.windows):
            figures.append(style_figure(comparisons, weight, held_out.windows))
        else:
            left_out.append(("style classifier", "it needs two prompts and two recordings"))
        figures.append(distance_figure(comparisons, weight, held_out.windows))
        if (windows := count_windows(comparisons, held_out.windows)) >= FRECHET_WINDOWS:
            figures.append(frechet_figure(comparisons, weight, held_out.windows))
        else:
            left_out.append(
                ("Fréchet distance", f"it needs {FRECHET_WINDOWS} windows of songs and recordings, not {windows}")
            )
    else:
        left_out.append(("style distance", "it needs recordings of the style that were not trained on"))
    return figures, left_out
