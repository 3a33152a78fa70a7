"""What watches a run: records, checkpoints, progress."""

from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.callbacks.checkpointing import SaveCheckpointCallback
from acestep.training.callbacks.progress import ProgressCallback
from acestep.training.callbacks.recording import RecordingCallback

__all__ = ["ProgressCallback", "RecordingCallback", "RunControl", "SaveCheckpointCallback", "TrainingCallback"]
