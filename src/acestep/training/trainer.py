"""LoRATrainer: from a base model and a config to an adapter folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from acestep.datasets.augmentation import Augmentation
from acestep.datasets.folder import read_dataset_folder
from acestep.datasets.latent_cache import LatentCache, choose_cache_folder
from acestep.datasets.latent_dataset import LatentDataset
from acestep.datasets.lyric_states import with_lyric_states
from acestep.datasets.preparation import OnProgress, prepare_dataset
from acestep.datasets.representation_targets import load_encoders, with_targets
from acestep.datasets.seeding import derived_generator
from acestep.errors import AceStepError, ConfigError, MissingWeightsError, TrainingError
from acestep.families.base import Family
from acestep.families.checkpoint import require_finite
from acestep.families.loading import default_device, load_family
from acestep.lora.adapter import Adapter, write_adapter
from acestep.lora.attach import TrainableAdapter, module_shapes
from acestep.lora.metadata import AdapterMetadata
from acestep.lora.targets import find_ranks, find_targets
from acestep.models.compilation import compiled_blocks
from acestep.models.quantization import quantization_of
from acestep.training.attaching import attached
from acestep.training.building import (
    adapter_form,
    build_watchers,
    changed_settings,
    optimization_settings,
    run_identity,
    training_noise,
    training_plan,
    warnings_of,
)
from acestep.training.callbacks import TrainingCallback
from acestep.training.checkpoints import latest_checkpoint
from acestep.training.commands import RunCommands, hearing_signals
from acestep.training.config import TrainingConfig
from acestep.training.loop import LoopSettings, Outcome, TrainingLoop
from acestep.training.optimization import Optimization
from acestep.training.planning.outlook import Extent, extent_of_dataset, extent_of_folder, run_shape, step_settings
from acestep.training.planning.planner import RunPlan, plan_run
from acestep.training.precision import autocast_dtype
from acestep.training.processes import join_processes
from acestep.training.results import TrainingSummary
from acestep.training.run_folder import RunFolder
from acestep.training.samples import SAMPLED_PROMPTS, SampleMaker
from acestep.training.sharding import sharded_base

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
        given = base_model.device if isinstance(base_model, Family) else default_device()
        wanted = torch.device(device) if device is not None else given
        self.processes = join_processes(wanted)
        own = self.processes.device(wanted)
        if self.processes.shards_base and self.config.base_quantization:
            raise ConfigError(
                f"base_quantization: {self.config.base_quantization} and FSDP cannot be had together; leave one of them"
            )
        if isinstance(base_model, Family):
            if self.config.base_quantization != quantization_of(base_model.network):
                raise ConfigError(
                    f"base_quantization is {self.config.base_quantization}, the loaded {base_model.name} has"
                    f" {quantization_of(base_model.network)}; load it with load_family(..., quantization=...)"
                )
            self.family = base_model if own == given else base_model.to(own)
            self.base_name = base_model.name
        else:
            self.base_name = str(base_model or self.config.base_model)
            # The run's config.yaml tells the base that was trained on, wherever it was named.
            self.config = self.config.model_copy(update={"base_model": self.base_name})
            self.family = self.processes.each(lambda: self._load(self.base_name, own))
        lora, aliases = self.config.lora, self.family.lora_aliases
        self._targets = find_targets(module_shapes(self.family.network), lora.target_modules, aliases)
        self._ranks = find_ranks(self._targets, lora.rank_pattern, aliases)
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
        """Check a dataset folder and compute what no step changes, where it is not cached (datasets/preparation.py).

        That is latents of each recording and its changed copies, text states, lyric states where the adapter leaves the
        lyric encoder alone, and what alignment losses compare with where their encoders are here. None takes the
        config's folder. Several processes share the work. Raises DatasetError naming all tracks that cannot be used,
        unless skip_bad.
        """
        data = self.config.data
        folder = Path(root if root is not None else data.train_dir)
        cache = LatentCache(Path(cache_dir) if cache_dir is not None else choose_cache_folder(folder))

        def prepare() -> LatentDataset:
            return prepare_dataset(
                folder,
                self.family,
                max_duration_s=data.max_duration,
                seed=self.config.training.seed,
                augmentation=Augmentation(**data.augmentation.model_dump()),
                skip_bad=skip_bad,
                cache_dir=cache.root,
                on_progress=on_progress,
            )

        def add_states(dataset: LatentDataset) -> LatentDataset:
            dataset = with_lyric_states(dataset, self.family, self._targets, cache)
            return self._with_alignment(dataset, folder, cache) if self.config.training.ssl_loss_weight else dataset

        # Recordings are encoded by whichever process claims them; the rest is little, and made once.
        dataset = self.processes.each(prepare)
        return self.processes.in_turn(lambda: add_states(dataset))

    def plan(self, dataset: LatentDataset | None = None, *, probe: bool = True) -> RunPlan:
        """What the run will need of memory, time and disk, whether it is there, and what would fit if not.

        dataset: None looks at the recordings of the config's folder as if none were encoded yet. probe: run a real step
        (`planning/probe.py`); without it shapes are counted, and no time is told.
        """
        data = self.config.data
        if dataset is not None:
            extent = extent_of_dataset(dataset, self.family, data.validation_split)
        else:
            folder = read_dataset_folder(data.train_dir, skip_bad=True)
            limit_s, held_out = data.max_duration, data.validation_split
            extent = extent_of_folder(folder, self.family, max_duration_s=limit_s, held_out=held_out)
        return self._plan(self.config, extent, probe=probe)

    def train(
        self,
        dataset: LatentDataset | None = None,
        epochs: int | None = None,
        callbacks: Sequence[TrainingCallback] = (),
        *,
        resume: bool = False,
        check: bool = True,
    ) -> TrainingSummary:
        """Train, and leave the run folder of DESIGN.md in the config's output_dir with the result in its `adapter/`.

        None takes the dataset and the epochs of the config. resume: go on from the folder's latest checkpoint, or start
        where there is none. check: `plan` first, and refuse what does not fit. Callbacks come beside those that the
        config asks for, and instead of one of their own kind. Of several processes, all call this alike; the first one
        alone writes, and has callbacks.
        """
        began = time.monotonic()
        dataset = dataset if dataset is not None else self.prepare_dataset()
        if not len(dataset):
            raise TrainingError("the dataset has no tracks; prepare a folder with recordings in it")
        config = self.config if epochs is None else _with_epochs(self.config, epochs)
        require_finite(self.family.network)
        # A base that is going to be shared out may well fit where the whole of it does not.
        check = check and not self.processes.shards_base
        planned = self.processes.each(lambda: self._require_room(config, dataset)) if check else None
        folder = RunFolder(config.output_dir)
        watchers = build_watchers(config, folder, callbacks) if self.processes.is_first else []
        self._prompts = tuple(dict.fromkeys(track.prompt for track in dataset.tracks))[:_EXAMPLE_PROMPTS]
        with ExitStack() as held:
            changes = self.processes.first(lambda: _take(folder, config, held, resume=resume))
            commands = RunCommands(folder.control)
            with self._attached() as adapter, hearing_signals(commands):
                loop = self.processes.each(
                    lambda: self._loop(config, folder, dataset, adapter, watchers, commands, resume=resume)
                )
                self.processes.require_alike(
                    config=lambda: config.sha256(),
                    base_and_dataset=lambda: loop.identity.model_dump_json(),
                    checkpoint=lambda: str((loop.last_checkpoint, loop.step)),
                    adapter=lambda: _digest(adapter.parameters()),
                )
                warnings = (
                    *dataset.warnings,
                    *warnings_of(config, loop.plan, held_out=loop.held_out is not None),
                    *(planned.advice if planned else ()),
                )
                with self._lean(config, adapter):
                    outcome, reason = self._watched(loop, warnings, planned, changes)

            def conclude() -> TrainingSummary:
                summary = TrainingSummary(
                    folder=folder.path,
                    adapter=self._save_result(folder, loop),
                    steps=loop.step,
                    outcome=outcome,
                    reason=reason,
                    best_step=loop.best_step,
                    first_validation=loop.first_validation,
                    last_validation=loop.last_validation,
                    seconds=time.monotonic() - began,
                )
                for watcher in watchers:
                    watcher.on_end(summary)
                return summary

            return self.processes.first(conclude)

    def _save_result(self, folder: RunFolder, loop: TrainingLoop) -> Path:
        """Write the run's adapter; where that fails, say what is kept, and tell the watchers."""
        try:
            return self.save_lora(folder.adapter)
        except (AceStepError, OSError) as error:
            failed = TrainingError(
                f"the steps are done, but {folder.adapter} could not be written: {error}; all is kept in"
                f" {loop.last_checkpoint}, and --resume writes the adapter from it"
            )
            for watcher in loop.callbacks:
                watcher.on_failure(failed)
            raise failed from error

    def _plan(self, config: TrainingConfig, extent: Extent, *, probe: bool) -> RunPlan:
        cache = LatentCache(choose_cache_folder(Path(config.data.train_dir)))
        settings = step_settings(config, tuple(self._targets), self._ranks, extent)
        return plan_run(self.family, settings, run_shape(config, extent, cache), example=extent.example, probe=probe)

    def _require_room(self, config: TrainingConfig, dataset: LatentDataset) -> RunPlan:
        """The run's plan; TrainingError with its problems, and what would help, where it does not fit."""
        extent = extent_of_dataset(dataset, self.family, config.data.validation_split)
        planned = self._plan(config, extent, probe=True)
        if planned.problems:
            said = "; ".join((*planned.problems, *planned.advice))
            raise TrainingError(f"{said} (check=False, or --no-check, trains all the same)")
        return planned

    def _watched(
        self, loop: TrainingLoop, warnings: Sequence[str], planned: RunPlan | None, changes: Mapping[str, Any]
    ) -> tuple[Outcome, str]:
        """Run the loop with its watchers told of the start and of a failure; the adapter is kept either way."""

        def start() -> None:
            info = loop.info(tuple(warnings))
            for watcher in loop.callbacks:
                watcher.on_start(info, loop)
            if planned is not None:
                loop.note("planned", message=planned.summary(), **planned.as_dict())
            if changes:
                loop.note("settings changed", **changes)

        try:
            self.processes.first(start)
            return loop.run()
        except BaseException as error:
            for watcher in loop.callbacks:
                watcher.on_failure(error)
            raise
        finally:
            self._adapter = loop.result()

    def _with_alignment(self, dataset: LatentDataset, folder: Path, cache: LatentCache) -> LatentDataset:
        """With representation targets; without them, and a word on why, where the weights they need are not here."""
        try:
            encoders = load_encoders(self.family)
        except MissingWeightsError as error:
            said = f"representation-alignment losses are off: {error}"
            return replace(dataset, warnings=(*dataset.warnings, said))
        paths = {track.name: track.path for track in read_dataset_folder(folder, skip_bad=True).tracks}
        recordings = {track.content: paths[track.name] for track in dataset.tracks}
        return with_targets(dataset, recordings, encoders, cache, latent_rate=self.family.latent_rate)

    def save_lora(self, path: str | Path) -> Path:
        """Write the adapter folder, whole or not at all; what an interrupted run had learned can be saved too.

        Of several processes only the first one writes.
        """
        if self._adapter is None:
            raise TrainingError("there is no adapter to save yet; call train() first")
        if not self.processes.is_first:
            return Path(path)
        return write_adapter(path, self._adapter, prompts=self._prompts)

    def _load(self, name: str, device: torch.device) -> Family:
        # On a GPU half the memory decides what can be trained; on a CPU the float32 residual stream costs little.
        half = self.config.precision == "bf16" and device.type != "cpu"
        dtype = torch.bfloat16 if half else torch.float32
        return load_family(name, device=device, dtype=dtype, quantization=self.config.base_quantization)

    def _attached(self) -> AbstractContextManager[TrainableAdapter]:
        """A fresh adapter on the network for the block, and the network as it was after it."""
        generator = derived_generator(self.config.training.seed, "adapter")
        form = {**adapter_form(self.config, self._ranks), "generator": generator}
        checkpointing = self.config.gradient_checkpointing
        return attached(self.family.network, self._targets, form=form, gradient_checkpointing=checkpointing)

    def _loop(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        dataset: LatentDataset,
        adapter: TrainableAdapter,
        callbacks: Sequence[TrainingCallback],
        commands: RunCommands,
        *,
        resume: bool,
    ) -> TrainingLoop:
        """The run where it begins, or where the last one that is resumed ended."""
        loop = self._build_loop(config, folder, dataset, adapter, callbacks, commands)
        if resume and (checkpoint := latest_checkpoint(folder.checkpoints())) is not None:
            loop.resume(checkpoint)
        if self.processes.is_first:
            folder.forget_after(loop.step or -1)
        return loop

    @contextmanager
    def _lean(self, config: TrainingConfig, adapter: TrainableAdapter) -> Iterator[None]:
        """Within the block a GPU holds nothing that no step needs, and blocks are compiled if the config says so."""
        with ExitStack() as stack:
            if self.processes.shards_base:
                stack.enter_context(sharded_base(self.family.network, adapter.parameters().values()))
            if self.family.device.type != "cpu":
                stack.enter_context(self.family.encoders_on("cpu"))
            if config.training.compile:
                stack.enter_context(compiled_blocks(self.family.network))
            yield

    def _build_loop(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        dataset: LatentDataset,
        adapter: TrainableAdapter,
        callbacks: Sequence[TrainingCallback],
        commands: RunCommands,
    ) -> TrainingLoop:
        """The config ends here: the loop gets plain values."""
        training, held_out = dataset.split(config.data.validation_split)
        loop = config.training
        plan = training_plan(config, len(training))
        return TrainingLoop(
            self.family,
            adapter,
            training,
            held_out,
            plan=plan,
            settings=LoopSettings(
                batch_size=loop.batch_size,
                noise=training_noise(config, self.family.noise),
                distribution=loop.timestep_distribution,
                alignment_weight=loop.ssl_loss_weight * self.family.alignment_weight,
                validate_every=loop.validate_every,
                sample_every=config.samples.every_epochs,
                keep_checkpoints=config.checkpoints.keep,
                autocast=autocast_dtype(config.precision),
            ),
            optimization=Optimization(adapter.parameters(), optimization_settings(config, plan.total_steps)),
            samples=self._sample_maker(config, folder, held_out or training),
            folder=folder,
            identity=run_identity(config, self.family.fingerprint(), dataset),
            metadata=self._metadata(config, adapter),
            callbacks=callbacks,
            commands=commands,
            processes=self.processes,
        )

    def _sample_maker(self, config: TrainingConfig, folder: RunFolder, tracks: LatentDataset) -> SampleMaker | None:
        samples = config.samples
        if samples.every_epochs is None:
            return None
        prompts = samples.prompts or tuple(dict.fromkeys(track.prompt for track in tracks.tracks))[:SAMPLED_PROMPTS]
        return SampleMaker(
            self.family,
            prompts=prompts,
            lyrics=samples.lyrics,
            seeds=samples.seeds,
            duration_s=samples.duration,
            folder=folder.samples,
        )

    def _metadata(self, config: TrainingConfig, adapter: TrainableAdapter) -> AdapterMetadata:
        return AdapterMetadata(
            trained=adapter.trained_with,
            family=self.family.name,
            base_model=_public_name(self.base_name),
            base_fingerprint=self.family.fingerprint(),
            training_config_sha256=config.sha256(),
        )


def _take(folder: RunFolder, config: TrainingConfig, held: ExitStack, *, resume: bool) -> dict[str, Any]:
    """Hold the folder and write its log until `held` is left -> what a resumed run does otherwise than before."""
    held.enter_context(folder.locked())
    changes = changed_settings(folder, config) if resume else {}
    folder.start(config.to_yaml(), resume=resume)
    held.enter_context(folder.logging_to_file())
    return changes


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _public_name(base: str) -> str:
    """A hub id or alias as it is; of a folder its last name, since adapters travel and paths are private."""
    return Path(base).resolve().name if Path(base).exists() else base


def _with_epochs(config: TrainingConfig, epochs: int) -> TrainingConfig:
    values = config.model_dump()
    return TrainingConfig.model_validate({**values, "training": {**values["training"], "epochs": epochs}})
