"""A run's numbers and songs for Weights & Biases, online or kept on this machine for later."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import yaml

from acestep.errors import ConfigError
from acestep.training.callbacks.figures import Figures
from acestep.training.callbacks.logger import LoggerCallback
from acestep.training.results import RunInfo, SamplesResult

logger = logging.getLogger(__name__)

_PATIENCE_S = 60.0
"""What the service may take to answer at the start, and to be sent the rest at the end."""


class WandbCallback(LoggerCallback):
    """Logs to a project of Weights & Biases; songs can be heard there.

    mode: None takes WANDB_MODE, else "online"; where the service cannot be reached, or nobody is logged in, the run is
    kept in `wandb/` of the run folder, for `wandb sync`. A resumed run goes on in the same run there. options go to
    `wandb.init` (entity, tags, group, name). Raises ConfigError where wandb is absent.
    """

    name = "wandb"

    def __init__(
        self,
        project: str = "acestep-lora",
        *,
        mode: Literal["online", "offline", "disabled"] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                'the wandb logger needs its library: pip install "acesteps[wandb]", or leave it out of loggers'
            ) from error
        self.project, self.mode, self.options = project, mode, options
        self.run_id = secrets.token_hex(4)
        self._wandb: Any = wandb
        self._run: Any = None

    def state(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.run_id = state.get("run_id", self.run_id)

    def open(self, run: RunInfo) -> None:
        try:
            self._run = self._start(run, self.mode)
        except self._wandb.errors.Error as error:
            if self.mode == "offline":
                raise
            logger.warning("wandb cannot be reached (%s); the run is kept in %s/wandb", error, run.folder)
            self._run = self._start(run, "offline")

    def write(self, step: int, figures: Figures) -> None:
        self._run.log(dict(figures), step=step)

    def write_songs(self, result: SamplesResult) -> None:
        songs = {
            f"samples/{song.path.stem}": self._wandb.Audio(str(song.path), caption=song.prompt)
            for song in result.samples
        }
        if songs:
            self._run.log(songs, step=result.step)

    def close(self, *, succeeded: bool) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if succeeded else 1)
            self._run = None

    def _start(self, run: RunInfo, mode: str | None) -> Any:
        return self._wandb.init(
            project=self.project,
            dir=str(run.folder),
            id=self.run_id,
            resume="allow",
            # Another run that the program has open with wandb is none of ours to end.
            reinit="create_new",
            mode=mode,
            config=_config(run),
            settings=self._wandb.Settings(
                # The terminal is the progress bar's.
                console="off",
                silent=True,
                init_timeout=_PATIENCE_S,
                login_timeout=_PATIENCE_S,
                finish_timeout=_PATIENCE_S,
            ),
            **{"name": run.folder.resolve().name, **self.options},
        )


def _config(run: RunInfo) -> dict[str, Any]:
    """The run's settings as its folder holds them, and what it trains on."""
    facts = {"training_tracks": run.training_tracks, "held_out_tracks": run.held_out_tracks, "trainable": run.trainable}
    try:
        settings = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return facts
    return {**settings, **facts} if isinstance(settings, dict) else facts
