"""LoRATrainer: from a base model and a config to an adapter folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from acestep.datasets.latent_dataset import LatentDataset
from acestep.datasets.preparation import OnProgress, prepare_dataset
from acestep.datasets.seeding import derived_generator
from acestep.errors import TrainingError
from acestep.families.base import Family
from acestep.families.loading import default_device, load_family
from acestep.lora.adapter import Adapter, write_adapter
from acestep.lora.attach import TrainableAdapter, attach_trainable, module_shapes
from acestep.lora.metadata import AdapterMetadata, TrainedWith
from acestep.lora.targets import find_targets
from acestep.training.callbacks import RecordingCallback, SaveCheckpointCallback, TrainingCallback
from acestep.training.checkpoints import RunIdentity, latest_checkpoint
from acestep.training.config import TrainingConfig
from acestep.training.interruption import Interruption, noticing_interrupt
from acestep.training.loop import LoopSettings, TrainingLoop
from acestep.training.plan import TrainingPlan
from acestep.training.results import TrainingSummary
from acestep.training.run_folder import RunFolder

_EXAMPLE_PROMPTS = 3


class LoRATrainer:
    """Trains one adapter. The base model is loaded, or taken as it is, and never altered.

    base_model: a name, folder or hub id, or a loaded family; None takes the config's. device: None takes the first GPU
    where there is one. Raises AdapterError at once where a target module of the config matches nothing.
    """

    def __init__(
        self,
        base_model: str | Path | Family | None = None,
        config: TrainingConfig | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.config = config or TrainingConfig()
        if isinstance(base_model, Family):
            self.family = base_model if device is None else base_model.to(device)
            self.base_name = base_model.name
        else:
            self.base_name = str(base_model or self.config.base_model)
            # The run's config.yaml tells the base that was trained on, wherever it was named.
            self.config = self.config.model_copy(update={"base_model": self.base_name})
            self.family = self._load(self.base_name, device)
        self._targets = find_targets(
            module_shapes(self.family.network), self.config.lora.target_modules, self.family.lora_aliases
        )
        self._adapter: Adapter | None = None
        self._prompts: tuple[str, ...] = ()

    def prepare_dataset(
        self,
        root: str | Path | None = None,
        *,
        skip_bad: bool = False,
        cache_dir: str | Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> LatentDataset:
        """Check a dataset folder and encode what is not cached yet (datasets/preparation.py); None takes the config's.

        Raises DatasetError naming all tracks that cannot be used, unless skip_bad.
        """
        data = self.config.data
        return prepare_dataset(
            root if root is not None else data.train_dir,
            self.family,
            max_duration_s=data.max_duration,
            seed=self.config.training.seed,
            skip_bad=skip_bad,
            cache_dir=cache_dir,
            on_progress=on_progress,
        )

    def train(
        self,
        dataset: LatentDataset | None = None,
        epochs: int | None = None,
        callbacks: Sequence[TrainingCallback] = (),
        *,
        resume: bool = False,
    ) -> TrainingSummary:
        """Train, and leave the run folder of DESIGN.md in the config's output_dir with the result in its `adapter/`.

        None takes the dataset and the epochs of the config. resume: go on from the folder's latest checkpoint, or start
        where there is none. A checkpoint every 10 epochs is kept unless a SaveCheckpointCallback says otherwise.
        """
        began = time.monotonic()
        dataset = dataset if dataset is not None else self.prepare_dataset()
        if not len(dataset):
            raise TrainingError("the dataset has no tracks; prepare a folder with recordings in it")
        config = self.config if epochs is None else _with_epochs(self.config, epochs)
        folder = RunFolder(config.output_dir)
        folder.start(config.to_yaml(), resume=resume)
        watchers = [RecordingCallback(folder), *callbacks]
        if not any(isinstance(callback, SaveCheckpointCallback) for callback in callbacks):
            watchers.append(SaveCheckpointCallback())
        self._prompts = tuple(dict.fromkeys(track.prompt for track in dataset.tracks))[:_EXAMPLE_PROMPTS]
        with folder.logging_to_file(), self._attached() as adapter, noticing_interrupt() as interruption:
            loop = self._build_loop(config, folder, dataset, adapter, watchers, interruption)
            if resume and (checkpoint := latest_checkpoint(folder.checkpoints())) is not None:
                loop.resume(checkpoint)
            folder.forget_after(loop.step or -1)
            try:
                info = loop.info((*dataset.warnings, *_warnings(config, loop.plan)))
                for watcher in watchers:
                    watcher.on_start(info, loop)
                outcome, reason = loop.run()
            except BaseException as error:
                for watcher in watchers:
                    watcher.on_failure(error)
                raise
            finally:
                self._adapter = adapter.adapter(loop.metadata)
            summary = TrainingSummary(
                folder=folder.path,
                adapter=self.save_lora(folder.adapter),
                steps=loop.step,
                outcome=outcome,
                reason=reason,
                first_validation=loop.first_validation,
                last_validation=loop.last_validation,
                seconds=time.monotonic() - began,
            )
            for watcher in watchers:
                watcher.on_end(summary)
        return summary

    def save_lora(self, path: str | Path) -> Path:
        """Write the adapter folder, whole or not at all; what an interrupted run had learned can be saved too."""
        if self._adapter is None:
            raise TrainingError("there is no adapter to save yet; call train() first")
        return write_adapter(path, self._adapter, prompts=self._prompts)

    def _load(self, name: str, device: torch.device | str | None) -> Family:
        chosen = torch.device(device) if device is not None else default_device()
        # On a GPU half the memory decides what can be trained; on a CPU the float32 residual stream costs little.
        half = self.config.precision == "bf16" and chosen.type != "cpu"
        return load_family(name, device=chosen, dtype=torch.bfloat16 if half else torch.float32)

    @contextmanager
    def _attached(self) -> Iterator[TrainableAdapter]:
        """A fresh adapter on the network for the block, and the network as it was after it."""
        lora = self.config.lora
        network: Any = self.family.network
        checkpointing = getattr(network, "gradient_checkpointing", None)
        adapter = attach_trainable(
            network,
            self._targets,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            generator=derived_generator(self.config.training.seed, "adapter"),
        )
        if checkpointing is not None:
            network.gradient_checkpointing = self.config.gradient_checkpointing
        try:
            yield adapter
        finally:
            adapter.detach()
            if checkpointing is not None:
                network.gradient_checkpointing = checkpointing

    def _build_loop(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        dataset: LatentDataset,
        adapter: TrainableAdapter,
        callbacks: Sequence[TrainingCallback],
        interruption: Interruption,
    ) -> TrainingLoop:
        """The config ends here: the loop gets plain values."""
        training, held_out = dataset.split(config.data.validation_split)
        loop = config.training
        return TrainingLoop(
            self.family,
            adapter,
            training,
            held_out,
            plan=TrainingPlan(
                tracks=len(training),
                batch_size=loop.batch_size,
                accumulation=loop.gradient_accumulation,
                epochs=loop.epochs,
                seed=loop.seed,
                max_steps=loop.max_steps,
            ),
            settings=LoopSettings(
                learning_rate=loop.learning_rate,
                scheduler=loop.lr_scheduler,
                warmup_steps=loop.warmup_steps,
                weight_decay=loop.weight_decay,
                max_grad_norm=loop.max_grad_norm,
                validate_every=loop.validate_every,
                autocast=torch.bfloat16 if config.precision == "bf16" else None,
            ),
            folder=folder,
            identity=self._identity(config, dataset),
            metadata=self._metadata(config),
            callbacks=callbacks,
            interruption=interruption,
        )

    def _metadata(self, config: TrainingConfig) -> AdapterMetadata:
        return AdapterMetadata(
            trained=TrainedWith(rank=config.lora.rank, alpha=config.lora.alpha),
            family=self.family.name,
            base_model=_public_name(self.base_name),
            base_fingerprint=self.family.fingerprint(),
            training_config_sha256=config.sha256(),
        )

    def _identity(self, config: TrainingConfig, dataset: LatentDataset) -> RunIdentity:
        tracks = "\n".join(sorted(f"{track.content} {track.prompt}" for track in dataset.tracks))
        return RunIdentity(
            base_fingerprint=self.family.fingerprint(),
            tracks_sha256=hashlib.sha256(tracks.encode()).hexdigest(),
            lora=config.lora.model_dump(mode="json"),
            batch_size=config.training.batch_size,
            gradient_accumulation=config.training.gradient_accumulation,
            seed=config.training.seed,
            max_duration=config.data.max_duration,
            validation_split=config.data.validation_split,
        )


def _public_name(base: str) -> str:
    """A hub id or alias as it is; of a folder its last name, since adapters travel and paths are private."""
    return Path(base).resolve().name if Path(base).exists() else base


def _with_epochs(config: TrainingConfig, epochs: int) -> TrainingConfig:
    values = config.model_dump()
    return TrainingConfig.model_validate({**values, "training": {**values["training"], "epochs": epochs}})


def _warnings(config: TrainingConfig, plan: TrainingPlan) -> list[str]:
    found = []
    augmentation = config.data.augmentation
    if augmentation.pitch_shift or augmentation.time_stretch or augmentation.add_noise:
        found.append("augmentation is not there yet: recordings are used as they are")
    if config.training.warmup_steps >= plan.total_steps:
        found.append(
            f"the warmup of {config.training.warmup_steps} steps is not over after all {plan.total_steps} steps;"
            " the learning rate never reaches its value"
        )
    return found
