"""From a config to the plain values and watchers that a run is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from acestep.datasets.latent_dataset import LatentDataset
from acestep.errors import ConfigError
from acestep.families.base import TrainingNoise
from acestep.training.callbacks import (
    CsvCallback,
    DiagnosisCallback,
    EarlyStoppingCallback,
    RecordingCallback,
    SaveCheckpointCallback,
    TensorBoardCallback,
    TrainingCallback,
    WandbCallback,
)
from acestep.training.checkpoints import RunIdentity
from acestep.training.config import LoggerName, TrainingConfig
from acestep.training.optimization import OptimizationSettings, setting_warnings
from acestep.training.plan import TrainingPlan
from acestep.training.run_folder import RunFolder

_PROJECT = "acestep-lora"

# A resumed run may differ in these: how long it goes on, how fast it learns, when it looks, keeps and shows.
_FREE = {
    "base_model",
    "output_dir",
    "checkpoints",
    "samples",
    "loggers",
    "gradient_checkpointing",
    "data.train_dir",
    "training.epochs",
    "training.max_steps",
    "training.learning_rate",
    "training.lr_scheduler",
    "training.warmup_steps",
    "training.weight_decay",
    "training.max_grad_norm",
    "training.validate_every",
    "training.early_stopping",
    "training.compile",
    "lora.loraplus_lr_ratio",
}


def training_noise(config: TrainingConfig, noise: TrainingNoise) -> TrainingNoise:
    """The family's own noise with what the config says instead."""
    drops, shift = config.training.conditioning_dropout, config.training.timestep_shift
    wanted = {
        "shift": shift,
        "text_dropout": drops.text,
        "speaker_dropout": drops.speaker,
        "lyric_dropout": drops.lyrics,
    }
    return replace(noise, **{name: value for name, value in wanted.items() if value is not None})


def adapter_form(config: TrainingConfig, ranks: Mapping[str, int]) -> dict[str, Any]:
    """What `attach_trainable` takes besides the targets. ranks: of modules that have their own (`lora/targets.py`)."""
    lora = config.lora
    return {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "dropout": lora.dropout,
        "rslora": lora.use_rslora,
        "dora": lora.use_dora,
        "ranks": dict(ranks),
    }


def training_plan(config: TrainingConfig, tracks: int) -> TrainingPlan:
    """How the run walks through so many tracks."""
    loop = config.training
    return TrainingPlan(
        tracks=tracks,
        examples_per_step=loop.batch_size * loop.gradient_accumulation,
        epochs=loop.epochs,
        seed=loop.seed,
        max_steps=loop.max_steps,
    )


def optimization_settings(config: TrainingConfig, total_steps: int) -> OptimizationSettings:
    loop = config.training
    return OptimizationSettings(
        optimizer=loop.optimizer,
        learning_rate=loop.learning_rate,
        scheduler=loop.lr_scheduler,
        warmup_steps=loop.warmup_steps,
        total_steps=total_steps,
        weight_decay=loop.weight_decay,
        max_grad_norm=loop.max_grad_norm,
        loraplus_lr_ratio=config.lora.loraplus_lr_ratio,
        ema_decay=loop.ema_decay,
    )


def run_identity(config: TrainingConfig, base_fingerprint: str, dataset: LatentDataset) -> RunIdentity:
    """What a resumed run must have in common with the one that it goes on with."""
    settings = {name: value for name, value in flat_settings(config).items() if not _is_free(name)}
    return RunIdentity(base_fingerprint=base_fingerprint, tracks=dict(dataset.track_digests()), settings=settings)


def changed_settings(folder: RunFolder, now: TrainingConfig) -> dict[str, Any]:
    """What a resumed run does otherwise than its config.yaml says that it did, by name, as `{"was": .., "is": ..}`."""
    try:
        before = flat_settings(TrainingConfig.from_yaml(folder.config))
    except ConfigError:
        return {}
    changed = {name: value for name, value in flat_settings(now).items() if value != before.get(name)}
    return {name: {"was": before.get(name), "is": value} for name, value in changed.items()}


def warnings_of(config: TrainingConfig, plan: TrainingPlan, *, held_out: bool) -> list[str]:
    """What is allowed and most likely not meant, a sentence each."""
    found = setting_warnings(optimization_settings(config, plan.total_steps))
    if not held_out:
        found.append("no track is held out, so nothing will tell when recordings begin to be learned by heart")
    if config.training.warmup_steps >= plan.total_steps:
        found.append(
            f"the warmup of {config.training.warmup_steps} steps is not over after all {plan.total_steps} steps;"
            " the learning rate never reaches its value"
        )
    return found


def flat_settings(config: TrainingConfig) -> dict[str, Any]:
    """`training.epochs` and so on, as JSON values."""

    def walk(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in values.items():
            inner = walk(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
            found |= inner
        return found

    return walk(config.model_dump(mode="json"), "")


def build_watchers(
    config: TrainingConfig, folder: RunFolder, given: Sequence[TrainingCallback]
) -> list[TrainingCallback]:
    """The caller's callbacks among those that the config asks for; one that the caller gives goes before its kind."""
    kinds = {type(callback) for callback in given}
    watchers: list[TrainingCallback] = [RecordingCallback(folder), DiagnosisCallback(), *given]
    checkpoints, stopping = config.checkpoints, config.training.early_stopping
    if SaveCheckpointCallback not in kinds:
        watchers.append(SaveCheckpointCallback(every=checkpoints.every_epochs, minutes=checkpoints.every_minutes))
    if stopping is not None and EarlyStoppingCallback not in kinds:
        watchers.append(EarlyStoppingCallback(stopping.patience, stopping.metric, min_delta=stopping.min_delta))
    watchers += [_logger(name) for name in config.loggers if _LOGGERS[name] not in kinds]
    return watchers


_LOGGERS: dict[LoggerName, type[TrainingCallback]] = {
    "csv": CsvCallback,
    "tensorboard": TensorBoardCallback,
    "wandb": WandbCallback,
}


def _logger(name: LoggerName) -> TrainingCallback:
    return WandbCallback(project=_PROJECT) if name == "wandb" else _LOGGERS[name]()


def _is_free(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[: count + 1]) in _FREE for count in range(len(parts)))
