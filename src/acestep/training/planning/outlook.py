"""What a config and its recordings come to, in the terms that a plan is made of (`planner.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from acestep.datasets.folder import DatasetFolder
from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import LatentDataset
from acestep.families.base import Conditioning, Family
from acestep.training.building import adapter_form, optimization_settings, training_plan
from acestep.training.config import TrainingConfig
from acestep.training.planning.run_shape import RunShape
from acestep.training.planning.step_settings import StepSettings
from acestep.training.precision import autocast_dtype
from acestep.training.samples import SAMPLED_PROMPTS
from acestep.training.validation import LEVELS


@dataclass(frozen=True)
class Extent:
    """How much there is to train on. frames: of the longest window; example: the longest conditioning."""

    tracks: int
    held_out: int
    audio_s: float
    to_encode_s: float
    frames: int
    example: Conditioning


def extent_of_dataset(dataset: LatentDataset, family: Family, held_out: float) -> Extent:
    """Of tracks that are encoded already. held_out: the share that is not trained on."""
    training, rest = dataset.split(held_out)
    longest = max(dataset.tracks, key=lambda track: track.conditioning.stat().st_size)
    return Extent(
        tracks=len(training),
        held_out=0 if rest is None else len(rest),
        audio_s=sum(track.frames for track in dataset.tracks) / family.latent_rate,
        to_encode_s=0.0,
        frames=max(dataset.windows()),
        example=dataset.example(dataset.tracks.index(longest), 1).conditioning,
    )


def extent_of_folder(folder: DatasetFolder, family: Family, *, max_duration_s: float, held_out: float) -> Extent:
    """Of recordings as they lie in a folder, as if none were encoded. What is said about them is encoded here, once."""
    durations = [track.duration_s for track in folder.tracks]
    longest = max(folder.tracks, key=lambda track: len(track.annotation.lyrics) + len(track.annotation.text_prompt()))
    # Chance decides the tracks; at least one is held out where there are two, and one is always left.
    apart = min(max(round(held_out * len(durations)), 1), len(durations) - 1) if held_out > 0 else 0
    return Extent(
        tracks=len(durations) - apart,
        held_out=apart,
        audio_s=sum(durations),
        to_encode_s=sum(durations),
        frames=min(family.latent_frames(max_duration_s), family.latent_frames(max(durations))),
        example=family.encode_prompt([longest.annotation.text_prompt()], [longest.annotation.lyrics]),
    )


def step_settings(
    config: TrainingConfig, targets: tuple[str, ...], ranks: Mapping[str, int], extent: Extent
) -> StepSettings:
    """What one step of the run will cost."""
    loop = config.training
    form = adapter_form(config, ranks)
    return StepSettings(
        frames=extent.frames,
        targets=targets,
        rank=form.pop("rank"),
        adapter=form,
        text_tokens=extent.example.text_states.shape[1],
        lyric_tokens=extent.example.lyric_ids.shape[1],
        batch_size=loop.batch_size,
        accumulation=min(loop.gradient_accumulation, -(-extent.tracks // loop.batch_size)),
        autocast=autocast_dtype(config.precision),
        gradient_checkpointing=config.gradient_checkpointing,
        quantization=config.base_quantization,
        optimization=optimization_settings(config, 1),
    )


def run_shape(config: TrainingConfig, extent: Extent, cache: LatentCache) -> RunShape:
    """How long the run will be, and what it will leave on the disk."""
    loop, samples = config.training, config.samples
    plan = training_plan(config, extent.tracks)
    epochs = -(-plan.total_steps // plan.steps_per_epoch)
    songs = (len(samples.prompts) or SAMPLED_PROMPTS) * len(samples.seeds)
    augmentation = config.data.augmentation
    changed = augmentation.pitch_shift or augmentation.time_stretch or augmentation.add_noise
    return RunShape(
        steps=plan.total_steps,
        tracks=extent.tracks + extent.held_out,
        audio_s=extent.audio_s,
        output_dir=Path(config.output_dir),
        cache_dir=cache.root,
        validations=1 + epochs // loop.validate_every,
        held_out_tracks=extent.held_out,
        levels=LEVELS,
        to_encode_s=extent.to_encode_s,
        variants=1 + (augmentation.variants if changed else 0),
        songs=songs if samples.every_epochs else 0,
        sample_rounds=max(epochs // samples.every_epochs, 1) if samples.every_epochs else 0,
        sample_s=samples.duration,
        checkpoints=max(epochs // config.checkpoints.every_epochs, 1),
        checkpoints_kept=config.checkpoints.keep,
    )
