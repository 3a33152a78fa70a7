"""A run's numbers for TensorBoard: `tensorboard --logdir lora_output`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestep.errors import ConfigError
from acestep.training.callbacks.figures import Figures
from acestep.training.callbacks.logger import LoggerCallback
from acestep.training.results import RunInfo


class TensorBoardCallback(LoggerCallback):
    """Writes event files into `tensorboard/` of the run folder, or to `log_dir`.

    A resumed run hides what lies beyond the step that it goes on from. Raises ConfigError where tensorboard is absent.
    """

    name = "tensorboard"

    def __init__(self, log_dir: str | Path | None = None) -> None:
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                'the tensorboard logger needs its library: pip install "acesteps[tensorboard]", or leave it out of'
                " loggers"
            ) from error
        self.log_dir = None if log_dir is None else Path(log_dir)
        self._make_writer: Any = SummaryWriter
        self._writer: Any = None

    def open(self, run: RunInfo) -> None:
        folder = self.log_dir or run.folder / "tensorboard"
        self._writer = self._make_writer(str(folder), purge_step=run.step + 1 if run.step else None)

    def write(self, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, succeeded: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
