"""The short evaluation at the end of a training: does it do anything, is it on the way, has it memorised?

Two prompts, one seed and one strength: a first look in about the time of four songs, not a verdict on the style, which
`acestep evaluate` gives.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.errors import AceStepError
from acestep.evaluation.advice import Advice, advise
from acestep.evaluation.curves import read_curves
from acestep.evaluation.evaluation import Evaluation, Stage, evaluate_lora
from acestep.evaluation.listeners import EffectListener
from acestep.evaluation.memorised_passages import MemorisationListener
from acestep.evaluation.page import write_page
from acestep.evaluation.recordings import DatasetParts, dataset_prompts, held_out_part
from acestep.evaluation.report_card import publish_card, save_card
from acestep.lora.whole_folder import written_whole
from acestep.pipeline import ACEStepPipeline

if TYPE_CHECKING:
    from acestep.datasets.latent_dataset import LatentDataset
    from acestep.training import LoRATrainer, TrainingSummary

logger = logging.getLogger(__name__)

FOLDER = "evaluation"
PROMPTS = 2
SEEDS = (1,)
SONG_S = 10.0


def evaluate_after_training(
    trainer: LoRATrainer,
    summary: TrainingSummary,
    dataset: LatentDataset,
    *,
    prompts: int = PROMPTS,
    seeds: Sequence[int] = SEEDS,
    duration_s: float = SONG_S,
    stage: Stage | None = None,
) -> Evaluation | None:
    """Base and LoRA on the first held-out prompts -> run/evaluation/ with the page, evaluation.json there and in the
    adapter's folder.

    None where it could not be made, which is a warning in the log: a run that has its result is not spoilt by this. An
    earlier evaluation of the run is replaced.
    """
    data = trainer.config.data
    try:
        training, held_out = dataset.split(data.validation_split)
        folder = Path(data.train_dir)
        parts = DatasetParts(folder, training, held_out, dataset_prompts(folder, held_out or training))
        asked = parts.prompts[:prompts]
        if not asked:
            raise _nothing_to_ask(folder)
        recordings = held_out_part(held_out, trainer.family) if held_out is not None else None
        out = summary.folder / FOLDER
        with written_whole(out) as partial:
            evaluation = evaluate_lora(
                ACEStepPipeline(trainer.family, model=trainer.config.base_model),
                summary.adapter,
                asked,
                folder=partial,
                strengths=(1.0,),
                seeds=seeds,
                duration_s=duration_s,
                held_out=recordings,
                listeners=(EffectListener(summary.adapter), MemorisationListener(partial, parts)),
                stage=stage,
            )
            # One strength was tried, so none can be recommended over others.
            evaluation, _ = publish_card(evaluation, recommend=False)
            save_card(evaluation, partial)
            curves = read_curves(summary.folder / "metrics.jsonl")
            command = [
                "acestep",
                "evaluate",
                summary.adapter,
                "--model",
                trainer.config.base_model,
                "--dataset",
                folder,
            ]
            again = shlex.join([*map(str, command), "--out", "DIR"])
            more = Advice("Measure it over strengths, with more prompts:", again)
            write_page(
                partial,
                evaluation,
                title=f"A first look at {summary.folder.name}",
                advice=[*advise(evaluation, curves, tracks=len(training)), more],
                curves=curves,
            )
    except (AceStepError, OSError) as error:
        logger.warning("the LoRA is trained; its first evaluation could not be made: %s", error)
        return None
    return evaluation


def _nothing_to_ask(folder: Path) -> AceStepError:
    return AceStepError(f"no track of {folder} has a prompt to make a song of")
