"""Say what ails a run while it goes on, each thing once."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acestep.errors import AceStepError
from acestep.training.callbacks.base import RunControl, TrainingCallback
from acestep.training.diagnosis import Finding, diagnose
from acestep.training.history import read_history
from acestep.training.results import EpochResult, RunInfo

logger = logging.getLogger(__name__)

_SHARE = 50
"""A long run's record takes seconds to read; the next look waits for this many times what the last one took."""


class DiagnosisCallback(TrainingCallback):
    """Looks at the run's own record after each validation, or epoch where nothing is held out, and notes what is new.

    Needs a RecordingCallback before it, which the trainer puts first. A finding is told once, and again where it is
    about something else (overfitting becomes strong, another track stands out); a resumed run does not repeat it.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._validates = False
        self._told: set[str] = set()
        self._wait_until = 0.0

    def on_start(self, run: RunInfo, control: RunControl) -> None:
        self._folder, self._validates = run.folder, run.held_out_tracks > 0

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        if self._validates and result.validation is None:
            return
        began = time.monotonic()
        if self._folder is None or began < self._wait_until:
            return
        try:
            findings = diagnose(read_history(self._folder))
        except AceStepError as error:
            logger.warning("the run cannot be judged: %s", error)
            return
        for finding in findings:
            self._tell(finding, result.epoch, control)
        now = time.monotonic()
        self._wait_until = now + _SHARE * (now - began)

    def state(self) -> dict[str, Any]:
        return {"told": sorted(self._told)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._told = set(state.get("told", ()))

    def _tell(self, finding: Finding, epoch: int, control: RunControl) -> None:
        new = {f"{finding.kind}: {subject}" for subject in finding.subjects or ("",)} - self._told
        if not new:
            return
        self._told |= new
        control.note(
            "diagnosis",
            kind=finding.kind,
            epoch=epoch,
            message=f"{finding.message} {finding.advice}",
            finding=finding.message,
            advice=finding.advice,
            evidence=dict(finding.evidence),
        )
