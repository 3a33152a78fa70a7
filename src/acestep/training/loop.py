"""The training loop: batch, loss, backward, clip, step, report."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from acestep.datasets.latent_dataset import LatentDataset
from acestep.datasets.prefetching import prefetch
from acestep.datasets.seeding import derive_seed
from acestep.errors import AceStepError, DatasetError, TrainingError
from acestep.families.base import Family, TrainingNoise
from acestep.lora.adapter import Adapter
from acestep.lora.attach import TrainableAdapter
from acestep.lora.metadata import AdapterMetadata
from acestep.training.callbacks.base import TrainingCallback
from acestep.training.checkpoints import Checkpoint, Position, RunIdentity, save_checkpoint
from acestep.training.commands import RunCommands, Wish
from acestep.training.config import TimestepDistribution
from acestep.training.material import Material, MaterialSource
from acestep.training.memory import peak_memory_bytes
from acestep.training.objective import losses_under, losses_with_alignment
from acestep.training.optimization import Optimization
from acestep.training.pace import Pace
from acestep.training.plan import TrainingPlan
from acestep.training.precision import autocast
from acestep.training.processes import Processes, shared_out
from acestep.training.results import EpochResult, ExampleLoss, RunInfo, SamplesResult, StepResult, ValidationResult
from acestep.training.run_folder import RunFolder
from acestep.training.samples import SampleMaker
from acestep.training.sharding import whole_base
from acestep.training.tally import StepTally
from acestep.training.validation import HeldOutLoss, held_out_loss
from acestep.wording import names_text

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_WISHES: tuple[Wish, ...] = get_args(Wish)

Outcome = Literal["finished", "stopped", "cancelled"]
Phase = Literal["between batches", "in a batch", "in a step"]
"""What an error finds: a whole state; gradients of a step that are half there; parameters that are half new."""


@dataclass(frozen=True)
class LoopSettings:
    """How the adapter meets its tracks; the plan says in what order, the optimization what it makes of them."""

    batch_size: int
    noise: TrainingNoise
    distribution: TimestepDistribution
    alignment_weight: float
    validate_every: int
    sample_every: int | None
    keep_checkpoints: int
    autocast: torch.dtype | None
    """What matrix products are computed in; None leaves them to the weights' own dtype."""


@dataclass(frozen=True)
class _Part:
    """What one process found in its part of a step. left_early: the run is to end, so the step is given up."""

    tally: StepTally
    too_large: str | None
    left_early: bool


@dataclass
class _Asked:
    """What callbacks have asked for since they were last told something."""

    checkpoint: bool = False
    best: bool = False
    ending: tuple[Outcome, str] | None = None


class _TooLarge(Exception):
    """A batch does not fit into the GPU's memory."""


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
        optimization: Optimization,
        samples: SampleMaker | None,
        folder: RunFolder,
        identity: RunIdentity,
        metadata: AdapterMetadata,
        callbacks: Sequence[TrainingCallback],
        commands: RunCommands,
        processes: Processes,
    ) -> None:
        self.family, self.adapter = family, adapter
        self.training, self.held_out = training, held_out
        self._source = MaterialSource(training, plan, settings.noise, settings.distribution, processes)
        self.plan, self.settings, self.optimization = plan, settings, optimization
        self.samples, self.folder = samples, folder
        self.identity, self.metadata = identity, metadata
        self.callbacks, self.commands, self.processes = callbacks, commands, processes
        self.step = 0
        self.first_validation: ValidationResult | None = None
        self.last_validation: ValidationResult | None = None
        self.last_checkpoint: Path | None = None
        self.best_step: int | None = None
        self._best: dict[str, Tensor] = {}
        self._parameters = adapter.parameters()
        self._batch_size = settings.batch_size
        self._tally = StepTally()
        self._epoch_loss_sum, self._epoch_examples = 0.0, 0
        self._phase: Phase = "between batches"
        self._pace = Pace()
        self._step_began = time.monotonic()
        self._asked = _Asked()
        self._wants_checkpoint = self._wants_best = False
        self._ending: tuple[Outcome, str] | None = None
        self._written: tuple[Path, int] | None = None

    # What callbacks may ask for (`RunControl`).

    def save_checkpoint(self) -> None:
        self._asked.checkpoint = True

    def keep_best(self) -> None:
        self._asked.best = True

    def note(self, event: str, **details: Any) -> None:
        for callback in self.callbacks:
            callback.on_event(event, details)

    def stop(self, reason: str) -> None:
        self._asked.ending = ("stopped", reason)

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
        position = checkpoint.position
        if differences := self.identity.differences(position.identity):
            raise TrainingError(
                f"{checkpoint.path} is of another run: {'; '.join(differences)}. Resume with what it had, or train in"
                " another output_dir"
            )
        self.optimization.load(checkpoint.below("optimization"), position.optimization)
        if self.processes.is_first:
            # Gradients and losses of a step that is not over: the processes' parts are added up at its end.
            self._tally.examples = list(position.examples)
            for name, gradient in checkpoint.below("gradient").items():
                self._parameters[name].grad = gradient.to(self._parameters[name].device)
        self._best, self.best_step = checkpoint.below("best"), position.best_step
        self.step, self._tally.batches_done = position.step, position.batches_done
        self._batch_size = position.batch_size
        self._epoch_loss_sum, self._epoch_examples = position.epoch_loss_sum, position.epoch_examples
        self.first_validation, self.last_validation = position.first_validation, position.last_validation
        self.last_checkpoint, self._written = checkpoint.path, (checkpoint.path, position.batches_done)
        for callback in self.callbacks:
            callback.load_state(position.callbacks.get(type(callback).__name__, {}))

    def result(self) -> Adapter:
        """What the run amounts to: the adapter that was kept as the best, else the average of its steps, if one is
        taken, else the last."""
        if not self._best:
            with self.optimization.averaged():
                return self.adapter.adapter(self.metadata)
        last = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.adapter.load_parameters(self._best)
        best = self.adapter.adapter(self.metadata)
        self.adapter.load_parameters(last)
        return best

    def run(self) -> tuple[Outcome, str]:
        """Train to the end, or to where it was asked to stop -> (outcome, why).

        Every way out leaves a checkpoint of the last whole state. Raises TrainingError where a loss is no number, and
        KeyboardInterrupt on Ctrl-C, after the batch that was at work. All processes end alike.
        """
        try:
            outcome, reason = self._run()
        except BaseException as error:
            self._rescue()
            self.processes.wait_for_first()
            if isinstance(error, DatasetError):
                raise DatasetError(f"{error}; {self._last_good()}") from error
            raise
        self._write_checkpoint()
        return outcome, reason

    def _run(self) -> tuple[Outcome, str]:
        self.adapter.drop_out(True)
        if self.step == 0 and self.last_validation is None:
            self._validate(epoch=0)
        while self.step < self.plan.total_steps and self._ending is None:
            try:
                remaining = self._source.materials(self.step, self._tally.batches_done, self._batch_size)
                with prefetch(remaining) as materials:
                    self._walk(materials)
            except _TooLarge as error:
                self._take_smaller_batches(error)
        if self.last_validation is not None and self.last_validation.step < self.step:
            self._validate(epoch=self.plan.epoch_of(self.step - 1) + 1)
        return self._ending or ("finished", "all steps are done")

    def _walk(self, materials: Iterator[Material | None]) -> None:
        self._step_began = time.monotonic()
        while self._ending is None and self.step < self.plan.total_steps:
            if self._learn(materials) if self.processes.count == 1 else self._learn_together(materials):
                self._take_step()
            self._obey()

    def _learn(self, materials: Iterator[Material | None]) -> bool:
        """Train on the next batch -> whether it was this process's last of the step."""
        asked = time.monotonic()
        material = next(materials)
        self._tally.waiting_s += time.monotonic() - asked
        if material is not None:
            self._accumulate(material)
        return material is None or material.last

    def _learn_together(self, materials: Iterator[Material | None]) -> bool:
        """Train on all batches of the step, each process on its own -> whether all are done; else nothing is."""

        def learn() -> _Part:
            too_large, left_early = None, False
            try:
                while not (left_early or self._learn(materials)):
                    # With the base in parts, one that leaves would keep the others waiting for its part.
                    hurries = self.commands.wish() in ("stop", "interrupt")
                    left_early = hurries and not self.processes.shards_base
            except _TooLarge as error:
                too_large = str(error)
            self._tally.memory_bytes = peak_memory_bytes(self.family.device)
            return _Part(self._tally, too_large, left_early)

        self._phase = "in a batch"
        parts = self.processes.together(learn)
        for part in parts:
            if part.too_large is not None:
                raise _TooLarge(part.too_large)
        if any(part.left_early for part in parts):
            self._forget_step()
            return False
        self._tally = StepTally.merged([part.tally for part in parts])
        self._require_numbers(self._tally.examples)
        self.processes.add_up(self._parameters.values())
        return True

    def _accumulate(self, material: Material) -> None:
        """Add the batch's part to the step's gradients."""
        self._phase = "in a batch"
        try:
            losses, minimised = self._losses(material)
            (minimised.sum() * material.weight).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise _TooLarge(f"{len(material.indices)} of {_shape(material)}") from error
        values = zip(material.batch.tracks, material.draws.sigmas.tolist(), losses.tolist(), strict=True)
        examples = [ExampleLoss(track, sigma, loss) for track, sigma, loss in values]
        if material.weight:
            self._tally.examples += examples
            self._tally.audio_s += material.batch.latents.shape[-1] * len(examples) / self.family.latent_rate
        self._tally.batches_done += 1
        if self.processes.count == 1:
            self._require_numbers(examples)
            self._phase = "between batches"

    def _require_numbers(self, examples: Sequence[ExampleLoss]) -> None:
        for example in examples:
            if not math.isfinite(example.loss):
                raise self._failure(f"the loss became {example.loss}", [example.track])

    def _take_step(self) -> None:
        self._phase = "in a batch"
        grad_norm = self.optimization.clip()
        if not math.isfinite(grad_norm):
            tracks = [example.track for example in self._tally.examples]
            raise self._failure(f"the gradient's norm became {grad_norm}", tracks)
        self._phase = "in a step"
        rate = self.optimization.step(self.step)
        self.step += 1
        done, self._tally = self._tally, StepTally()
        self._epoch_loss_sum += done.loss * len(done.examples)
        self._epoch_examples += len(done.examples)
        self._phase = "between batches"
        now = time.monotonic()
        seconds, self._step_began = now - self._step_began, now
        self._pace.add(seconds)
        remaining = self._pace.remaining(self.plan.total_steps - self.step)
        result = StepResult(
            step=self.step,
            total_steps=self.plan.total_steps,
            epoch=self.plan.epoch_of(self.step - 1) + 1,
            epochs=self.plan.epochs,
            loss=done.loss,
            learning_rate=rate,
            grad_norm=grad_norm,
            examples=tuple(done.examples),
            audio_s=done.audio_s,
            seconds=seconds,
            waiting_s=done.waiting_s,
            memory_bytes=max(done.memory_bytes, peak_memory_bytes(self.family.device)),
            eta_s=remaining[0] if remaining else None,
            eta_range_s=remaining[1] if remaining else None,
        )
        self._tell(lambda callback: callback.on_step(result, self))
        if self.step % self.plan.steps_per_epoch == 0:
            self._end_epoch(result.epoch)

    def _losses(self, material: Material) -> tuple[Tensor, Tensor]:
        """(denoising losses, what is minimised), (batch,) each: alignment comes in where targets were prepared."""
        device, batch = self.family.device, material.batch
        epoch = self.plan.epoch_of(material.step)
        dropout_seed = derive_seed(self.plan.seed, "dropout", epoch, material.indices[0])
        with self._autocast(), _seeded(dropout_seed, device):
            clean, conditioning = batch.latents.to(device), batch.conditioning.to(device)
            if not batch.targets:
                losses = losses_under(self.family.velocity, clean, conditioning, material.draws)
                return losses, losses
            losses, alignment = losses_with_alignment(
                self.family.velocity_with_alignment, clean, conditioning, material.draws, batch.targets
            )
            return losses, losses + self.settings.alignment_weight * alignment

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
        self._tell(lambda callback: callback.on_epoch(result, self))
        self._keep_best_if_asked()
        every = self.settings.sample_every
        if self.samples is not None and every is not None and (last or epoch % every == 0):
            self._make_samples(self.samples, epoch)

    def _validate(self, epoch: int) -> ValidationResult | None:
        if (held_out := self.held_out) is None:
            return None
        parts = self.processes.together(lambda: self._look(held_out))
        loss = parts[0] if self.processes.shards_base else HeldOutLoss.merged(parts)
        if not math.isfinite(loss.mean):
            # The parameters gave this, so they are not worth a checkpoint.
            self._phase = "in a step"
            whose = f"after step {self.step}" if self.step else "of the base model itself, before any training,"
            raise TrainingError(f"the held-out loss {whose} is {loss.mean}; {self._last_good()}")
        result = ValidationResult(self.step, epoch, loss.mean, loss.standard_error, loss.by_track, loss.by_sigma)
        self.first_validation = self.first_validation or result
        self.last_validation = result
        self._tell(lambda callback: callback.on_validation(result, self))
        self._keep_best_if_asked()
        return result

    def _look(self, held_out: LatentDataset) -> HeldOutLoss:
        """This process's part of a validation, or with the base in parts all of it; no track's loss depends on that."""
        shares = shared_out(range(len(held_out)), held_out.at_epoch(0).window, self.processes.count)
        tracks = None if self.processes.shards_base else shares[self.processes.rank]
        with self._as_used(), self._autocast():
            return held_out_loss(self.family, held_out, seed=self.plan.seed, tracks=tracks)

    def _make_samples(self, samples: SampleMaker, epoch: int) -> None:
        def make() -> SamplesResult:
            with self._as_used():
                return samples.make(epoch=epoch, step=self.step, adapter=self.adapter, note=self.note)

        with whole_base(self.family.network) if self.processes.shards_base else nullcontext():
            result = self.processes.first(make)
        self._tell(lambda callback: callback.on_samples(result, self))

    def _tell(self, tell: Callable[[TrainingCallback], None]) -> None:
        """Call each callback; what they ask for is then known to all processes."""

        def ask() -> _Asked:
            for callback in self.callbacks:
                tell(callback)
            asked, self._asked = self._asked, _Asked()
            return asked

        asked = self.processes.first(ask)
        self._wants_checkpoint |= asked.checkpoint
        self._wants_best |= asked.best
        self._ending = self._ending or asked.ending

    @contextmanager
    def _as_used(self) -> Iterator[None]:
        """The adapter as it will be used: averaged, if an average is taken, and without dropout."""
        self.adapter.drop_out(False)
        with self.optimization.averaged():
            yield
        self.adapter.drop_out(True)

    def _keep_best_if_asked(self) -> None:
        if not self._wants_best:
            return
        self._wants_best = False
        with self.optimization.averaged():
            self._best = {name: parameter.detach().cpu().clone() for name, parameter in self._parameters.items()}
        self.best_step = self.step

    def _obey(self) -> None:
        """Do what callbacks, signals and the control file have asked for."""
        if self._wants_checkpoint:
            self._write_checkpoint()
        wish = self._wish()
        if wish == "pause":
            self._pause()
            wish = self._wish()
        if wish == "interrupt":
            raise KeyboardInterrupt
        if wish in ("stop", "cancel") and self._ending is None and self.step < self.plan.total_steps:
            outcomes: dict[str, tuple[Outcome, str]] = {
                "stop": ("stopped", "the system asked it to end (SIGTERM)"),
                "cancel": ("cancelled", "it was cancelled"),
            }
            self._ending = outcomes[wish]

    def _wish(self) -> Wish:
        """What is wanted of the run: the strongest of what its processes were told."""
        return max(self.processes.gather(self.commands.wish()), key=_WISHES.index)

    def _tell_event(self, event: str, **details: Any) -> None:
        self._tell(lambda callback: callback.on_event(event, details))

    def _pause(self) -> None:
        self._write_checkpoint()
        self._tell_event("paused", step=self.step)
        began = time.monotonic()
        while self._wish() == "pause":
            time.sleep(_POLL_S)
        paused_s = time.monotonic() - began
        self._step_began += paused_s
        self._tell_event("went on", step=self.step, paused_s=round(paused_s, 1))

    def _take_smaller_batches(self, error: _TooLarge) -> None:
        """After running out of memory: the step begins anew in batches of half the size, and comes to the same."""
        self._forget_step()
        if self.family.device.type == "cuda":
            torch.cuda.empty_cache()
        network: Any = self.family.network
        if self._batch_size > 1:
            self._batch_size = self._batch_size // 2
            what = f"batches of {self._batch_size} from now on, the gradients of a step stay the same"
        elif getattr(network, "gradient_checkpointing", True) is False:
            network.gradient_checkpointing = True
            what = "gradient checkpointing is on from now on"
        else:
            raise TrainingError(
                f"the GPU's memory is too small for one window ({error}); make data.max_duration shorter, take"
                f" base_quantization: int8 or nf4, or a lower lora.rank. {self._last_good()}"
            ) from error
        self._tell_event("out of memory", step=self.step, batch=str(error), batch_size=self._batch_size, answer=what)

    def _forget_step(self) -> None:
        """Back to the end of the last whole step."""
        self.optimization.forget_gradients()
        self._tally = StepTally()
        self._phase = "between batches"

    def _rescue(self) -> None:
        """Keep the last whole state when a run ends by an error; the error goes before one that comes of this."""
        if self._phase == "in a step":
            return
        if self._phase == "in a batch" or self.processes.count > 1:
            self._forget_step()
        try:
            # Not agreed upon: the other processes may be gone.
            if self.processes.is_first:
                self._keep_state()
        except (AceStepError, OSError) as failed:
            logger.error("%s", failed)

    def _write_checkpoint(self) -> None:
        self._wants_checkpoint = False
        self.last_checkpoint = self.processes.first(self._keep_state)

    def _keep_state(self) -> Path | None:
        """Write a checkpoint, if this state has none -> the last one."""
        done, inside = divmod(self.step, self.plan.steps_per_epoch)
        path = self.folder.checkpoint(epoch=done + (inside > 0), step=self.step, whole_epoch=inside == 0)
        if (path, self._tally.batches_done) == self._written or (self.step, self._tally.batches_done) == (0, 0):
            return self.last_checkpoint
        position = Position(
            step=self.step,
            examples=tuple(self._tally.examples),
            batches_done=self._tally.batches_done,
            batch_size=self._batch_size,
            epoch_loss_sum=self._epoch_loss_sum,
            epoch_examples=self._epoch_examples,
            first_validation=self.first_validation,
            last_validation=self.last_validation,
            best_step=self.best_step,
            optimization=self.optimization.values(),
            callbacks={type(callback).__name__: state for callback in self.callbacks if (state := callback.state())},
            identity=self.identity,
        )
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        tensors = {
            "optimization": self.optimization.tensors(),
            "gradient": gradients,
            "best": self._best,
        }
        try:
            with self.optimization.averaged():
                adapter = self.adapter.adapter(self.metadata)
            save_checkpoint(path, position, adapter, tensors)
            self.folder.prune_checkpoints(self.settings.keep_checkpoints, sparing=path)
        except OSError as error:
            raise TrainingError(f"no checkpoint could be written to {path}: {error}; {self._last_good()}") from error
        self.last_checkpoint, self._written = path, (path, self._tally.batches_done)
        for callback in self.callbacks:
            callback.on_checkpoint(path)
        return path

    def _failure(self, what: str, tracks: Sequence[str]) -> TrainingError:
        """The error for a step that gave no number, its state from before being kept."""
        step = self.step + 1
        self._rescue()
        return TrainingError(
            f"{what} at step {step} (epoch {self.plan.epoch_of(step - 1) + 1}, tracks {names_text(tracks)}); a"
            f" lower learning_rate or precision: fp32 may help; {self._last_good()}"
        )

    def _last_good(self) -> str:
        if self.last_checkpoint is None:
            return "no checkpoint had been written yet"
        return f"the last good checkpoint is {self.last_checkpoint}"

    def _autocast(self) -> torch.autocast:
        return autocast(self.family.device, self.settings.autocast)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers, which dropout draws from, set for the block and put back after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _shape(material: Material) -> str:
    return f"{material.batch.latents.shape[-1]} frames"
