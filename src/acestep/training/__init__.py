"""Training a LoRA: config, trainer, callbacks, checkpoints, validation.

Names are loaded when first used: reading a run's record, or a config, needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.training.callbacks import CsvCallback as CsvCallback
    from acestep.training.callbacks import DiagnosisCallback as DiagnosisCallback
    from acestep.training.callbacks import EarlyStoppingCallback as EarlyStoppingCallback
    from acestep.training.callbacks import ProgressCallback as ProgressCallback
    from acestep.training.callbacks import RunControl as RunControl
    from acestep.training.callbacks import SaveCheckpointCallback as SaveCheckpointCallback
    from acestep.training.callbacks import TensorBoardCallback as TensorBoardCallback
    from acestep.training.callbacks import TrainingCallback as TrainingCallback
    from acestep.training.callbacks import WandbCallback as WandbCallback
    from acestep.training.config import TrainingConfig as TrainingConfig
    from acestep.training.planning.planner import RunPlan as RunPlan
    from acestep.training.results import EpochResult as EpochResult
    from acestep.training.results import RunInfo as RunInfo
    from acestep.training.results import SamplesResult as SamplesResult
    from acestep.training.results import StepResult as StepResult
    from acestep.training.results import TrainingSummary as TrainingSummary
    from acestep.training.results import ValidationResult as ValidationResult
    from acestep.training.trainer import LoRATrainer as LoRATrainer

_MODULES = {
    "callbacks": (
        "CsvCallback",
        "DiagnosisCallback",
        "EarlyStoppingCallback",
        "ProgressCallback",
        "RunControl",
        "SaveCheckpointCallback",
        "TensorBoardCallback",
        "TrainingCallback",
        "WandbCallback",
    ),
    "config": ("TrainingConfig",),
    "planning.planner": ("RunPlan",),
    "results": ("EpochResult", "RunInfo", "SamplesResult", "StepResult", "TrainingSummary", "ValidationResult"),
    "trainer": ("LoRATrainer",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
