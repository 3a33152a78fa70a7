"""What a person writes to train a LoRA: the settings, their defaults and what they may be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from acestep.training.config_file import read_config_file, written_as_config

LrSchedulerName = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "adamw_8bit", "prodigy"]
TimestepDistribution = Literal["logit_normal", "uniform"]
Precision = Literal["bf16", "fp32"]
Quantization = Literal["int8", "nf4"]  # as models/quantization.py has it, which needs torch
LoggerName = Literal["csv", "tensorboard", "wandb"]
MetricName = Literal["val_loss", "loss"]


def _said(expected: str) -> AfterValidator:
    """Refuses text of blanks alone, with what is expected."""

    def check(value: str) -> str:
        if not value.strip():
            raise ValueError(expected)
        return value

    return AfterValidator(check)


FolderName = Annotated[str, _said("the name of a folder")]
ModelName = Annotated[str, _said("a hub id, a folder or nano")]


class _Section(BaseModel):
    # Strict, because "yes" is no rank and 3.7 is no number of epochs.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LoraSection(_Section):
    """The adapter's form, in PEFT's words."""

    rank: int = Field(default=32, ge=1, le=1024)
    alpha: float = Field(default=64.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), min_length=1, strict=False
    )
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732), not alpha / rank."""
    use_dora: bool = False
    """Learn each output's magnitude apart from its direction (Liu et al. 2024, arXiv:2402.09353)."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = {}
    """Other ranks for adapted modules whose name holds the key: `{to_q: 64, fc1: 8}`; alpha keeps its ratio."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1)
    """How much faster B learns than A (LoRA+, Hayou et al. 2024, arXiv:2402.12354); 16 is the paper's advice."""


class DropoutRates(_Section):
    """How often a step does without a part of the conditioning; None leaves the rate that the base was trained with."""

    text: float | None = Field(default=None, ge=0, le=1)
    speaker: float | None = Field(default=None, ge=0, le=1)
    lyrics: float | None = Field(default=None, ge=0, le=1)


class EarlyStoppingSection(_Section):
    patience: int = Field(default=5, ge=1)
    """Validations (for loss: epochs) without a new best before the run ends."""
    metric: MetricName = "val_loss"
    min_delta: float = Field(default=0.0, ge=0)


class LoopSection(_Section):
    epochs: int = Field(default=50, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, whatever the epochs; None trains all epochs."""
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=8, ge=1)
    optimizer: OptimizerName = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0)
    """Prodigy finds its own and takes this as a factor: give it 1.0."""
    lr_scheduler: LrSchedulerName = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Average the adapter over its last steps, 0.999 say; validation, samples and the result are the average."""
    timestep_distribution: TimestepDistribution = "logit_normal"
    timestep_shift: float | None = Field(default=None, gt=0)
    """Above 1, more steps at high noise; None leaves the base's own."""
    conditioning_dropout: DropoutRates = DropoutRates()
    ssl_loss_weight: float = Field(default=1.0, ge=0)
    """Of v1's representation-alignment losses, where the weights they need are at hand; 0 is off."""
    validate_every: int = Field(default=1, ge=1)
    """Epochs between two looks at the held-out tracks."""
    early_stopping: EarlyStoppingSection | None = None
    compile: bool = False
    """torch.compile the network's blocks: minutes at the start, faster steps on a GPU."""
    seed: int = Field(default=0, ge=0)


class CheckpointSection(_Section):
    """When a run's state is kept, besides at its end, on a signal and on an error."""

    every_epochs: int = Field(default=10, ge=1)
    every_minutes: float | None = Field(default=30.0, gt=0)
    keep: int = Field(default=3, ge=1)
    """The newest so many stay; older ones are deleted."""


class SampleSection(_Section):
    """Songs made while training, for equal prompts and seeds each time, beside the base model's."""

    every_epochs: int | None = Field(default=10, ge=1)
    prompts: tuple[str, ...] = Field(default=(), strict=False)
    """None given: those of two tracks of the dataset, held-out ones first."""
    lyrics: str = ""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, strict=False)
    duration: float = Field(default=20.0, ge=5, le=240)


class AugmentationSection(_Section):
    """Changed copies of each track, encoded once; bpm and key in the prompt follow."""

    pitch_shift: bool = True
    time_stretch: bool = True
    add_noise: bool = False
    variants: int = Field(default=2, ge=1, le=32)
    """Copies of each track beside the track itself."""


class DataSection(_Section):
    train_dir: FolderName = "./training_data"
    validation_split: float = Field(default=0.1, ge=0, lt=1)
    max_duration: float = Field(default=60.0, gt=0, le=240)
    """Seconds of a track that a step sees: a window drawn anew each epoch."""
    augmentation: AugmentationSection = AugmentationSection()


class TrainingConfig(_Section):
    """Everything about a run. Built from a file by `from_yaml`, or from sections in code."""

    base_model: ModelName = "ACE-Step/ACE-Step-v1-3.5B"
    output_dir: FolderName = "./lora_output"
    lora: LoraSection = LoraSection()
    training: LoopSection = LoopSection()
    data: DataSection = DataSection()
    checkpoints: CheckpointSection = CheckpointSection()
    samples: SampleSection = SampleSection()
    loggers: tuple[LoggerName, ...] = Field(default=(), strict=False)
    precision: Precision = "bf16"
    base_quantization: Quantization | None = None
    """Keep the frozen base in 8 or 4 bits, for GPUs that it does not fit otherwise."""
    gradient_checkpointing: bool = True

    @field_validator("loggers")
    @classmethod
    def _each_once(cls, value: tuple[LoggerName, ...]) -> tuple[LoggerName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each name once")
        return value

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainingConfig:
        """Read a file; ConfigError lists everything that is wrong in it, each with its line."""
        return read_config_file(cls, Path(path))

    def to_yaml(self) -> str:
        """All settings, defaults included; `from_yaml` reads them back equal."""
        return written_as_config(self.model_dump(mode="json"))

    def sha256(self) -> str:
        """Of the settings, in whatever order and spelling a file had them."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
