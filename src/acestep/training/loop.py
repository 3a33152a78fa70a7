"""The training loop: batch, loss, backward, clip, step, report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from acestep.datasets.latent_dataset import LatentDataset
from acestep.datasets.seeding import derive_seed
from acestep.errors import TrainingError
from acestep.families.base import Family
from acestep.lora.attach import TrainableAdapter
from acestep.lora.metadata import AdapterMetadata
from acestep.training.callbacks.base import TrainingCallback
from acestep.training.checkpoints import (
    Checkpoint,
    Position,
    RunIdentity,
    optimizer_tensors,
    restore,
    save_checkpoint,
)
from acestep.training.config import SchedulerName
from acestep.training.interruption import Interruption
from acestep.training.learning_rate import learning_rate_factor
from acestep.training.objective import draw, losses_under
from acestep.training.plan import TrainingPlan
from acestep.training.results import EpochResult, RunInfo, StepResult, ValidationResult
from acestep.training.run_folder import RunFolder
from acestep.training.validation import held_out_loss

# The released trainer's; a short memory suits a loss whose size depends on the level that was drawn.
ADAM_BETAS = (0.8, 0.9)
ADAM_EPS = 1e-8

Outcome = Literal["finished", "stopped"]


@dataclass(frozen=True)
class LoopSettings:
    """How the adapter learns; the plan says from what."""

    learning_rate: float
    scheduler: SchedulerName
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    validate_every: int
    autocast: torch.dtype | None
    """What matrix products are computed in; None leaves them to the weights' own dtype."""


class TrainingLoop:
    """One run in progress. It changes the adapter's parameters and nothing else of the family."""

    def __init__(
        self,
        family: Family,
        adapter: TrainableAdapter,
        training: LatentDataset,
        held_out: LatentDataset | None,
        *,
        plan: TrainingPlan,
        settings: LoopSettings,
        folder: RunFolder,
        identity: RunIdentity,
        metadata: AdapterMetadata,
        callbacks: Sequence[TrainingCallback],
        interruption: Interruption,
    ) -> None:
        self.family, self.adapter = family, adapter
        self.training, self.held_out = training, held_out
        self.plan, self.settings, self.folder = plan, settings, folder
        self.identity, self.metadata = identity, metadata
        self.callbacks, self.interruption = callbacks, interruption
        self.step = 0
        self.first_validation: ValidationResult | None = None
        self.last_validation: ValidationResult | None = None
        self.last_checkpoint: Path | None = None
        self._parameters = adapter.parameters()
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=settings.learning_rate,
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
            weight_decay=settings.weight_decay,
        )
        self._epoch_loss_sum, self._epoch_examples = 0.0, 0
        self._wants_checkpoint = False
        self._stop_reason: str | None = None
        self._inside_step = False

    def save_checkpoint(self) -> None:
        """Ask for a checkpoint after this step (`RunControl`)."""
        self._wants_checkpoint = True

    def stop(self, reason: str) -> None:
        """Ask the run to end after this step (`RunControl`)."""
        self._stop_reason = reason

    def info(self, warnings: tuple[str, ...]) -> RunInfo:
        """What callbacks are told at the start."""
        return RunInfo(
            folder=self.folder.path,
            step=self.step,
            total_steps=self.plan.total_steps,
            epochs=self.plan.epochs,
            training_tracks=len(self.training),
            held_out_tracks=len(self.held_out) if self.held_out is not None else 0,
            trainable=sum(parameter.numel() for parameter in self._parameters.values()),
            warnings=warnings,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this run; TrainingError says in what it differs where it is another's."""
        if differences := self.identity.differences(checkpoint.position.identity):
            raise TrainingError(f"{checkpoint.path} is of another run: {'; '.join(differences)}")
        restore(checkpoint, self._optimizer, self.adapter)
        position = checkpoint.position
        self.step = position.step
        self._epoch_loss_sum, self._epoch_examples = position.epoch_loss_sum, position.epoch_examples
        self.first_validation, self.last_validation = position.first_validation, position.last_validation
        self.last_checkpoint = checkpoint.path

    def run(self) -> tuple[Outcome, str]:
        """Train to the end, or to where it was asked to stop -> (outcome, why).

        Every way out but a failure leaves a checkpoint. Raises TrainingError where the loss is no number, and
        KeyboardInterrupt on Ctrl-C, after the step that was running.
        """
        try:
            outcome, reason = self._run()
        except KeyboardInterrupt:
            # A second Ctrl-C can come in the middle of a step, where the state is neither the old nor the new one.
            if not self._inside_step:
                self._write_checkpoint()
            raise
        self._write_checkpoint()
        return outcome, reason

    def _run(self) -> tuple[Outcome, str]:
        started, began_at = time.monotonic(), self.step
        self.adapter.drop_out(True)
        if self.step == 0:
            self._validate(epoch=0)
        while self.step < self.plan.total_steps:
            result = self._train_step(started, began_at)
            for callback in self.callbacks:
                callback.on_step(result, self)
            if self.step % self.plan.steps_per_epoch == 0:
                self._end_epoch(result.epoch)
            if self._wants_checkpoint:
                self._write_checkpoint()
            if self.interruption.requested:
                raise KeyboardInterrupt
            if self._stop_reason is not None:
                break
        if self.last_validation is not None and self.last_validation.step < self.step:
            self._validate(epoch=self.plan.epoch_of(self.step - 1) + 1)
        if self.step < self.plan.total_steps:
            return "stopped", self._stop_reason or ""
        return "finished", "all steps are done"

    def _train_step(self, started: float, began_at: int) -> StepResult:
        began = time.monotonic()
        self._inside_step = True
        epoch, micro_batches = self.plan.epoch_of(self.step), self.plan.step(self.step)
        examples = sum(len(indices) for indices in micro_batches)
        rate = self.settings.learning_rate * learning_rate_factor(
            self.step,
            total_steps=self.plan.total_steps,
            warmup_steps=self.settings.warmup_steps,
            scheduler=self.settings.scheduler,
        )
        losses = []
        for indices in micro_batches:
            # Divided by the examples of the whole step, so that small batches add up to exactly the large one.
            total = self._losses(epoch, indices).sum() / examples
            total.backward()  # type: ignore[no-untyped-call]
            losses.append(total.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.settings.max_grad_norm)
        loss, grad_norm = float(torch.stack(losses).sum()), float(norm)
        self._require_finite(loss, grad_norm, epoch, micro_batches)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._epoch_loss_sum += loss * examples
        self._epoch_examples += examples
        self._inside_step = False
        now = time.monotonic()
        done, left = self.step - began_at, self.plan.total_steps - self.step
        return StepResult(
            step=self.step,
            total_steps=self.plan.total_steps,
            epoch=epoch + 1,
            epochs=self.plan.epochs,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            examples=examples,
            seconds=now - began,
            eta_s=(now - started) / done * left if done > 2 else None,
        )

    def _losses(self, epoch: int, indices: Sequence[int]) -> Tensor:
        """(batch,) losses of these tracks' windows in this epoch."""
        batch = self.training.at_epoch(epoch).batch(indices)
        device, rates = self.family.device, self.family.noise
        draws = draw(self.plan.seed, epoch, indices, batch.latents.shape[1:], rates)
        with self._autocast(), _seeded(derive_seed(self.plan.seed, "dropout", epoch, indices[0]), device):
            clean, conditioning = batch.latents.to(device), batch.conditioning.to(device)
            return losses_under(self.family.velocity, clean, conditioning, draws, rates)

    def _end_epoch(self, epoch: int) -> None:
        last = self.step == self.plan.total_steps
        validation = self._validate(epoch) if last or epoch % self.settings.validate_every == 0 else None
        result = EpochResult(
            epoch=epoch,
            epochs=self.plan.epochs,
            step=self.step,
            loss=self._epoch_loss_sum / self._epoch_examples,
            validation=validation,
        )
        self._epoch_loss_sum, self._epoch_examples = 0.0, 0
        for callback in self.callbacks:
            callback.on_epoch(result, self)

    def _validate(self, epoch: int) -> ValidationResult | None:
        if self.held_out is None:
            return None
        self.adapter.drop_out(False)
        with self._autocast():
            loss = held_out_loss(self.family, self.held_out, seed=self.plan.seed)
        self.adapter.drop_out(True)
        result = ValidationResult(self.step, epoch, loss.mean, loss.standard_error, loss.by_track)
        if not math.isfinite(loss.mean):
            raise TrainingError(f"the held-out loss became {loss.mean} after step {self.step}; {self._last_good()}")
        self.first_validation = self.first_validation or result
        self.last_validation = result
        for callback in self.callbacks:
            callback.on_validation(result, self)
        return result

    def _write_checkpoint(self) -> None:
        self._wants_checkpoint = False
        done, inside = divmod(self.step, self.plan.steps_per_epoch)
        path = self.folder.checkpoint(epoch=done + (inside > 0), step=self.step, whole_epoch=inside == 0)
        if path == self.last_checkpoint:
            return
        position = Position(
            step=self.step,
            epoch_loss_sum=self._epoch_loss_sum,
            epoch_examples=self._epoch_examples,
            first_validation=self.first_validation,
            last_validation=self.last_validation,
            identity=self.identity,
        )
        try:
            save_checkpoint(
                path,
                position,
                self.adapter.adapter(self.metadata),
                self._parameters,
                optimizer_tensors(self._optimizer, self.adapter),
            )
        except OSError as error:
            raise TrainingError(f"no checkpoint could be written to {path}: {error}; {self._last_good()}") from error
        self.last_checkpoint = path
        for callback in self.callbacks:
            callback.on_checkpoint(path)

    def _require_finite(
        self, loss: float, grad_norm: float, epoch: int, micro_batches: Sequence[Sequence[int]]
    ) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {grad_norm}"
        tracks = [self.training.tracks[index].name for indices in micro_batches for index in indices]
        named = ", ".join(tracks[:5]) + (f" and {len(tracks) - 5} more" if len(tracks) > 5 else "")
        raise TrainingError(
            f"{what} at step {self.step + 1} (epoch {epoch + 1}, tracks {named}); a lower learning_rate or"
            f" precision: fp32 may help; {self._last_good()}"
        )

    def _last_good(self) -> str:
        if self.last_checkpoint is None:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is {self.last_checkpoint}"

    def _autocast(self) -> torch.autocast:
        kind = self.settings.autocast
        return torch.autocast(self.family.device.type, dtype=kind or torch.bfloat16, enabled=kind is not None)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers, which dropout draws from, set for the block and put back after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
