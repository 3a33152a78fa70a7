"""What a person writes to train a LoRA: the settings, their defaults and what they may be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from acestep.training.config_file import read_config_file

SchedulerName = Literal["cosine", "linear", "constant"]
Precision = Literal["bf16", "fp32"]


class _Section(BaseModel):
    # Strict, because "yes" is no rank and 3.7 is no number of epochs.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LoraSection(_Section):
    rank: int = Field(default=32, ge=1, le=1024)
    alpha: float = Field(default=64.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"), min_length=1, strict=False
    )


class LoopSection(_Section):
    epochs: int = Field(default=50, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many optimizer steps, whatever the epochs; None trains all epochs."""
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    lr_scheduler: SchedulerName = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    validate_every: int = Field(default=1, ge=1)
    """Epochs between two looks at the held-out tracks."""
    seed: int = Field(default=0, ge=0)


class AugmentationSection(_Section):
    """Accepted and kept; recordings are used as they are for now, and a run says so."""

    pitch_shift: bool = True
    time_stretch: bool = True
    add_noise: bool = False


class DataSection(_Section):
    train_dir: str = "./training_data"
    validation_split: float = Field(default=0.1, ge=0, lt=1)
    max_duration: float = Field(default=60.0, gt=0, le=240)
    """Seconds of a track that a step sees: a window drawn anew each epoch."""
    augmentation: AugmentationSection = AugmentationSection()


class TrainingConfig(_Section):
    """Everything about a run. Built from a file by `from_yaml`, or from sections in code."""

    base_model: str = Field(default="ACE-Step/ACE-Step-v1-3.5B", min_length=1)
    output_dir: str = Field(default="./lora_output", min_length=1)
    lora: LoraSection = LoraSection()
    training: LoopSection = LoopSection()
    data: DataSection = DataSection()
    precision: Precision = "bf16"
    gradient_checkpointing: bool = True

    @field_validator("base_model")
    @classmethod
    def _no_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a hub id, a folder or nano")
        return value

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainingConfig:
        """Read a file; ConfigError lists everything that is wrong in it, each with its line."""
        return read_config_file(cls, Path(path))

    def to_yaml(self) -> str:
        """All settings, defaults included; `from_yaml` reads them back equal."""
        values = json.loads(self.model_dump_json())
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def sha256(self) -> str:
        """Of the settings, in whatever order and spelling a file had them."""
        canonical = json.dumps(json.loads(self.model_dump_json()), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
