"""What to try next, read off an evaluation and its training's curves; plain rules, each for one finding."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from acestep.evaluation.curves import TrainingCurves
from acestep.evaluation.evaluation import Evaluation

STILL_FALLING = 0.01
"""A validation loss whose last quarter fell by more than this share has not settled."""
RISEN = 0.02
FEW_TRACKS = 20


@dataclass(frozen=True)
class Advice:
    """A suggestion, with the command that carries it out where there is one."""

    text: str
    command: str = ""


def advise(evaluation: Evaluation, curves: TrainingCurves | None = None, *, tracks: int | None = None) -> list[Advice]:
    """Suggestions in the order of what matters most; tracks: how many were trained on, where that is known."""
    found: list[Advice] = []
    if evaluation.changes_nothing:
        found.append(Advice("Check that the LoRA was trained on this base model and that its weight is not 0."))
    found += _from_figures(evaluation)
    if curves is not None:
        found += _from_curves(curves)
    if tracks is not None and tracks < FEW_TRACKS:
        found.append(
            Advice(f"{tracks} tracks are few: under {FEW_TRACKS} a LoRA learns the tracks rather than the style.")
        )
    elif tracks is not None and tracks < 50:
        found.append(Advice("More recordings help most: 50 tracks and an hour are advised, 200 and five hours better."))
    found.append(Advice("Make a song of your own with it:", song_command(evaluation)))
    found.append(Advice("Train on your own recordings:", "acestep demo --audio FOLDER --out my_demo"))
    return found


def song_command(evaluation: Evaluation) -> str:
    """`acestep generate` with this LoRA and the first prompt."""
    prompt = evaluation.comparisons[0].prompt.prompt
    lora = f"{evaluation.lora}:{evaluation.weight:g}"
    return shlex.join(["acestep", "generate", "--model", evaluation.model, "--prompt", prompt, "--lora", lora])


def _from_figures(evaluation: Evaluation) -> Sequence[Advice]:
    if evaluation.changes_nothing:
        return []
    distance = evaluation.figure("distance_to_style")
    if distance is None:
        held_out = "Keep some recordings of the style out of the training and name their folder, to measure the aim:"
        command = f"acestep evaluate {shlex.quote(evaluation.lora)} --prompts FILE --held-out FOLDER --out DIR"
        return [Advice(held_out, command)]
    if distance.change.falls:
        share = distance.share_of_gap
        if share is not None and share < 0.5:
            return [
                Advice("The style is there in part. A weight of 1.3 to 1.5, or a longer training, brings more of it.")
            ]
        return [Advice("Try weights from 0.5 to 1.5: lower keeps more of the base, higher brings more of the style.")]
    if distance.change.rises:
        return [
            Advice("Songs moved away from the style: lower the learning rate or the weight, and check the prompts.")
        ]
    return [
        Advice("Nothing certain was heard yet. Train longer, raise the rank, or evaluate more prompts and seeds: the "
               "interval narrows with the number of prompts.")
    ]  # fmt: skip


def _from_curves(curves: TrainingCurves) -> Sequence[Advice]:
    losses = [loss for _, loss in curves.validation]
    if len(losses) < 4:
        return []
    best = min(losses)
    if losses[-1] > best * (1 + RISEN):
        return [Advice("The validation loss rose again after its lowest point: fewer epochs, or more recordings.")]
    before = losses[-max(2, len(losses) // 4) - 1]
    if losses[-1] < before * (1 - STILL_FALLING):
        return [Advice("The validation loss was still falling at the end: more epochs would help.")]
    return []
