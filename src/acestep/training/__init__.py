"""Training a LoRA: config, trainer, callbacks, checkpoints, validation."""

from acestep.training.callbacks import ProgressCallback, SaveCheckpointCallback, TrainingCallback
from acestep.training.config import TrainingConfig
from acestep.training.results import EpochResult, RunInfo, StepResult, TrainingSummary, ValidationResult
from acestep.training.trainer import LoRATrainer

__all__ = [
    "EpochResult",
    "LoRATrainer",
    "ProgressCallback",
    "RunInfo",
    "SaveCheckpointCallback",
    "StepResult",
    "TrainingCallback",
    "TrainingConfig",
    "TrainingSummary",
    "ValidationResult",
]
