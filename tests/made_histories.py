"""Histories of runs with known truth: what was learned, held out and drawn at each epoch is said by the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from acestep.training.history import ExampleColumns, RunHistory, StepColumns
from acestep.training.results import SamplesResult, ValidationResult

Curve = Callable[[float], float]


def learning(*, by: float = 0.2, pace: float = 10.0) -> Curve:
    """Falls by a share, fast at first."""
    return lambda epoch: 1 - by * (1 - float(np.exp(-epoch / pace)))


def flat(epoch: float) -> float:
    return 1.0


@dataclass
class MadeRun:
    """train, held_out: factors on the losses by epoch; wandering: of all held-out tracks together, from look to look;
    own: of each; hardness: of single tracks; norms: factor on the gradient's norm by step, in 0 to 1 of the run.
    """

    train: Curve = field(default_factory=learning)
    held_out: Curve = field(default_factory=lambda: learning(by=0.1))
    epochs: int = 60
    tracks: int = 24
    held_out_tracks: int = 4
    accumulation: int = 4
    wandering: float = 0.003
    own: float = 0.003
    example_noise: float = 0.3
    hardness: dict[int, float] = field(default_factory=dict)
    norms: Curve = flat
    likeness: Sequence[float] = ()
    config: dict[str, Any] = field(default_factory=dict)

    def history(self, seed: int) -> RunHistory:
        random = np.random.default_rng(seed)
        count = self.epochs * self.tracks
        epoch = np.repeat(np.arange(1, self.epochs + 1), self.tracks)
        track = np.concatenate([random.permutation(self.tracks) for _ in range(self.epochs)])
        sigma = 3 / (3 + np.exp(random.normal(size=count)))  # logit-normal, shifted by 3
        hard = np.exp(0.2 * random.normal(size=self.tracks))
        for index, factor in self.hardness.items():
            hard[index] = factor
        moment = np.arange(count) / self.tracks
        learned = np.array([self.train(at) for at in moment])
        noise = np.exp(self.example_noise * random.normal(size=count))
        loss = (0.02 + sigma**2) * hard[track] * learned * noise
        row = np.arange(count) // self.accumulation
        steps = row[-1] + 1
        blank = np.full(steps, np.nan)
        norm = 0.3 * np.exp(0.4 * random.standard_t(5, size=steps))
        columns = StepColumns(
            step=np.arange(1, steps + 1), epoch=epoch[:: self.accumulation], learning_rate=blank, audio_s=blank,
            loss=np.bincount(row, loss) / np.bincount(row), seconds=blank, waiting_s=blank, memory_bytes=blank,
            grad_norm=norm * np.array([self.norms(step / steps) for step in range(steps)]),
            examples=ExampleColumns(row, track, sigma, loss, tuple(f"track_{i:03}.wav" for i in range(self.tracks))),
        )  # fmt: skip
        songs = [
            SamplesResult((place + 1) * 10, (place + 1) * 10, Path("samples"), (), value)
            for place, value in enumerate(self.likeness)
        ]
        return RunHistory(
            folder=Path("run"), steps=columns, validations=self._validations(random), samples=tuple(songs), events=(),
            config=self.config, config_text="", total_steps=None, epochs=self.epochs, eta_s=None, eta_range_s=None,
            unreadable=0,
        )  # fmt: skip

    def _validations(self, random: np.random.Generator) -> tuple[ValidationResult, ...]:
        if not self.held_out_tracks:
            return ()
        levels = 0.5 * np.exp(0.3 * random.normal(size=self.held_out_tracks))
        looks = []
        for epoch in range(self.epochs + 1):
            common = self.wandering * random.normal() * (epoch > 0)
            own = self.own * random.normal(size=self.held_out_tracks) * (epoch > 0)
            losses = levels * self.held_out(epoch) * np.exp(common + own)
            by_track = {f"held_{i}.wav": float(value) for i, value in enumerate(losses)}
            looks.append(ValidationResult(epoch, epoch, float(losses.mean()), None, by_track))
        return tuple(looks)


def until(history: RunHistory, epoch: int) -> RunHistory:
    """The same run as it was known after that epoch."""
    rows = int(np.searchsorted(history.steps.epoch, epoch, side="right"))
    examples = history.steps.examples
    kept = examples.row < rows
    cut = {
        name: getattr(history.steps, name)[:rows] for name in history.steps.__dataclass_fields__ if name != "examples"
    }
    return replace(
        history,
        steps=StepColumns(
            **cut,
            examples=ExampleColumns(
                examples.row[kept], examples.track[kept], examples.sigma[kept], examples.loss[kept], examples.tracks
            ),
        ),
        validations=tuple(look for look in history.validations if look.epoch <= epoch),
        samples=tuple(result for result in history.samples if result.epoch <= epoch),
    )
