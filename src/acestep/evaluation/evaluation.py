"""A LoRA's evaluation from end to end: songs with and without it, figures, and what they amount to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.errors import InputError
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
from acestep.evaluation.side_by_side import Comparison, generate_comparisons
from acestep.evaluation.whole_file import write_text_whole
from acestep.pipeline import ACEStepPipeline

SCHEMA = "acestep-evaluation-1"
RESULT_FILE = "evaluation.json"

Progress = Callable[[int, int], None]
Stage = Callable[[str], AbstractContextManager[Progress]]
"""Opens a named stretch of work; what it gives hears (done, total)."""


@dataclass(frozen=True)
class HeldOut:
    """Recordings of the style that were not trained on.

    windows: the embedding of each recording; clips: passages to measure the loss on, none where nothing describes them.
    """

    windows: Sequence[NDArray[np.float64]] = ()
    clips: Sequence[HeldOutClip] = ()


@dataclass(frozen=True)
class Evaluation:
    """What was found out about one LoRA at one strength.

    moved, apart: see `measures.distance_from_base`; left_out: measures that could not be made, and why.
    """

    model: str
    fingerprint: str
    lora: str
    weight: float
    seeds: tuple[int, ...]
    duration_s: float
    comparisons: tuple[Comparison, ...]
    figures: tuple[Figure, ...]
    losses: LossComparison | None
    moved: float
    apart: float
    left_out: tuple[tuple[str, str], ...]

    @property
    def changes_nothing(self) -> bool:
        """The LoRA's songs sound as the base's to the last measure."""
        return self.moved < 1e-6

    def figure(self, key: str) -> Figure | None:
        return next((figure for figure in self.figures if figure.key == key), None)

    def as_dict(self) -> dict[str, Any]:
        """For `evaluation.json`; the same command gives the same."""
        return {
            "schema": SCHEMA,
            "acesteps": version("acesteps"),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "lora": self.lora,
            "weight": self.weight,
            "seeds": list(self.seeds),
            "duration_s": self.duration_s,
            "verdict": verdict(self),
            "figures": [figure.as_dict() for figure in self.figures],
            "held_out_loss_by_level": [
                {"sigma": sigma, "base": base, "lora": adapted, "change": change.as_dict()}
                for sigma, base, adapted, change in (self.losses.by_level if self.losses else ())
            ],
            "distance_from_base": {"lora": self.moved, "between_base_songs": _or_none(self.apart)},
            "left_out": [{"measure": measure, "why": why} for measure, why in self.left_out],
            "songs": [_described(comparison) for comparison in self.comparisons],
        }

    def save(self, folder: Path) -> Path:
        """Write `evaluation.json`, whole or not at all."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        return write_text_whole(folder / RESULT_FILE, text + "\n")


def evaluate_lora(
    pipeline: ACEStepPipeline,
    lora: str | Path,
    prompts: Sequence[Prompt],
    *,
    folder: Path,
    weight: float = 1.0,
    seeds: Sequence[int] = (1, 2),
    duration_s: float = 15.0,
    held_out: HeldOut | None = None,
    stage: Stage | None = None,
    **sampling: Any,
) -> Evaluation:
    """Songs of every prompt and seed with and without the LoRA in `folder`, and all measures that can be made.

    held_out: None leaves out what needs recordings, and says so. The pipeline is given back as it came. InputError for
    no prompts, a weight of 0, or LoRAs that are attached already.
    """
    stage = stage or (lambda _: nullcontext(lambda _done, _total: None))
    if not prompts or not seeds or weight == 0:
        raise InputError("an evaluation needs at least one prompt, one seed and a weight other than 0")
    if pipeline.loras:
        raise InputError(f"the pipeline has {list(pipeline.loras)} attached; unload them, so that the base is heard")
    held_out = held_out or HeldOut()
    name = pipeline.load_lora(lora, weight)
    try:
        losses = _measure_losses(pipeline, name, weight, held_out.clips, stage) if held_out.clips else None
        with stage("Songs with and without the LoRA") as progress:
            comparisons = generate_comparisons(
                pipeline,
                name,
                prompts,
                seeds=seeds,
                strengths=(0.0, weight),
                duration_s=duration_s,
                folder=folder,
                progress=progress,
                **sampling,
            )
    finally:
        pipeline.unload_lora(name)
    figures, left_out = _figures(comparisons, weight, held_out, losses)
    moved, apart = distance_from_base(comparisons, weight)
    return Evaluation(
        model=pipeline.model,
        fingerprint=pipeline.family.fingerprint(),
        lora=str(lora),
        weight=weight,
        seeds=tuple(seeds),
        duration_s=duration_s,
        comparisons=tuple(comparisons),
        figures=tuple(figures),
        losses=losses,
        moved=moved,
        apart=apart,
        left_out=tuple(left_out),
    )


def verdict(evaluation: Evaluation) -> str:
    """What the figures amount to, in a sentence or two that claim no more than they show."""
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
    return said + "."


def _measure_losses(
    pipeline: ACEStepPipeline, name: str, weight: float, clips: Sequence[HeldOutClip], stage: Stage
) -> LossComparison:
    sigmas = training_levels(pipeline.family)
    measured = []
    with stage("Held-out loss with and without the LoRA") as progress:
        for part, strength in enumerate((0.0, weight)):
            pipeline.set_lora_weights({name: strength})
            offset = part * len(clips)
            hear = partial(_shifted, progress, offset, 2 * len(clips))
            measured.append(clip_losses(pipeline.family, clips, sigmas, progress=hear))
    return compare_losses(measured[0], measured[1], sigmas, clips)


def _shifted(progress: Progress, offset: int, total: int, done: int, _part: int) -> None:
    progress(offset + done, total)


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


def _described(comparison: Comparison) -> dict[str, Any]:
    takes = [
        {
            "strength": take.strength,
            "audio": take.audio,
            "loudness_lufs": _or_none(take.loudness_lufs),
            "gain_db": take.gain_db,
            "silent": take.is_silent,
            "clipped": take.is_clipped,
            "recipe": take.recipe,
        }
        for take in comparison.takes
    ]
    return {**comparison.prompt.model_dump(), "seed": comparison.seed, "takes": takes}


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
