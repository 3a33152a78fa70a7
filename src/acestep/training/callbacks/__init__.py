"""What watches a run: records, checkpoints, progress, loggers, and what ends it early or says what is wrong."""

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.callbacks.checkpointing import SaveCheckpointCallback
from acestep.training.callbacks.csv_logger import CsvCallback
from acestep.training.callbacks.diagnosing import DiagnosisCallback
from acestep.training.callbacks.early_stopping import EarlyStoppingCallback
from acestep.training.callbacks.progress import ProgressCallback
from acestep.training.callbacks.recording import RecordingCallback
from acestep.training.callbacks.tensorboard_logger import TensorBoardCallback
from acestep.training.callbacks.wandb_logger import WandbCallback

__all__ = [
    "CsvCallback",
    "DiagnosisCallback",
    "EarlyStoppingCallback",
    "ProgressCallback",
    "RecordingCallback",
    "RunControl",
    "SaveCheckpointCallback",
    "TensorBoardCallback",
    "TrainingCallback",
    "WandbCallback",
]
