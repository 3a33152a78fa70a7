import errno
import json
import os
import shutil
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acestep.datasets import LatentDataset
from acestep.errors import AdapterError, CheckpointError, ConfigError, DatasetError, TrainingError
from acestep.families.base import Conditioning, TrainingNoise
from acestep.families.checkpoint import fingerprint
from acestep.lora import attach, module_shapes, read_adapter
from acestep.models.quantization import quantize_network
from acestep.training import (
    EpochResult,
    LoRATrainer,
    SaveCheckpointCallback,
    StepResult,
    TrainingCallback,
    TrainingConfig,
    TrainingSummary,
    ValidationResult,
)
from acestep.training.callbacks.base import RunControl
from acestep.training.commands import command_run
from acestep.training.config import (
    DataSection,
    DropoutRates,
    EarlyStoppingSection,
    LoopSection,
    LoraSection,
    SampleSection,
)
from acestep.training.validation import held_out_loss
from small_family import SmallFamily, write_dataset, write_tone

TRACKS = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), tracks=TRACKS, duration_s=3.0)


def make_config(out: Path, *, lora: dict[str, object] | None = None, **loop: object) -> TrainingConfig:
    settings = {"epochs": 3, "gradient_accumulation": 2, "learning_rate": 1e-2, "warmup_steps": 2, **loop}
    return TrainingConfig(
        output_dir=str(out),
        lora=LoraSection(**{"rank": 2, "alpha": 4.0, "dropout": 0.1, **(lora or {})}),
        training=LoopSection(**settings),  # type: ignore[arg-type]
        data=DataSection(max_duration=2.0, validation_split=0.25),
        samples=SampleSection(every_epochs=None),
        precision="fp32",
        gradient_checkpointing=False,
    )


class Trainer(LoRATrainer):
    """Takes it that runs fit: looking takes longer than these do."""

    def train(self, *given: Any, **named: Any) -> TrainingSummary:
        return super().train(*given, **{"check": False, **named})


def make_trainer(out: Path, family: SmallFamily | None = None, **settings: object) -> LoRATrainer:
    return Trainer(family or SmallFamily(), make_config(out, **settings))  # type: ignore[arg-type]


@dataclass
class Watcher(TrainingCallback):
    steps: list[StepResult] = field(default_factory=list)
    epochs: list[EpochResult] = field(default_factory=list)
    validations: list[ValidationResult] = field(default_factory=list)
    summaries: list[TrainingSummary] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    checkpoints: list[Path] = field(default_factory=list)

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self.steps.append(result)

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self.validations.append(result)

    def on_epoch(self, result: EpochResult, control: RunControl) -> None:
        self.epochs.append(result)

    def on_checkpoint(self, path: Path) -> None:
        self.checkpoints.append(path)

    def on_end(self, summary: TrainingSummary) -> None:
        self.summaries.append(summary)

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)


class At(TrainingCallback):
    """Do something at one step."""

    def __init__(self, step: int, act) -> None:  # type: ignore[no-untyped-def]
        self.step, self.act = step, act

    def on_step(self, result: StepResult, control: RunControl) -> None:
        if result.step == self.step:
            self.act(control)


def factors(path: Path) -> dict[str, Tensor]:
    return {
        name: part for m, f in read_adapter(path).factors.items() for name, part in ((m + "A", f.a), (m + "B", f.b))
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_run_leaves_its_folder_a_falling_loss_and_an_adapter_that_acts(tmp_path: Path, data: Path):
    family = SmallFamily()
    trainer = make_trainer(tmp_path / "run", family, epochs=25)
    watcher = Watcher()
    summary = trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
    assert summary.outcome == "finished"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "events.jsonl", "log.txt", "checkpoints", "adapter"
    }  # fmt: skip
    assert TrainingConfig.from_yaml(tmp_path / "run" / "config.yaml") == trainer.config
    assert [path.name for path in watcher.checkpoints] == ["epoch-0010", "epoch-0020", "epoch-0025"]
    assert summary.first_validation is not None
    assert summary.last_validation is not None
    assert summary.first_validation.epoch == 0
    assert summary.last_validation.val_loss < 0.9 * summary.first_validation.val_loss
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == [step.loss for step in watcher.steps]
    assert [row["val_loss"] for row in rows if "val_loss" in row] == [v.val_loss for v in watcher.validations]
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert events == ["started", "checkpoint", "checkpoint", "checkpoint", "finished"]

    conditioning = family.encode_prompt(["tone number 0"], [""])
    latents, sigmas = torch.randn(1, 8, 16, 10), torch.tensor([0.5])
    base = family.velocity(latents, sigmas, conditioning)
    adapter = read_adapter(summary.adapter, module_shapes(family.network))
    attach(family.network, adapter, name="a")
    assert not torch.allclose(family.velocity(latents, sigmas, conditioning), base)
    assert adapter.metadata.base_fingerprint == SmallFamily().fingerprint()
    assert adapter.metadata.trained is not None
    assert adapter.metadata.trained.alpha == 4.0
    assert adapter.metadata.training_config_sha256 == trainer.config.sha256()


def test_the_base_is_bit_for_bit_itself_after_training(tmp_path: Path, data: Path):
    family = SmallFamily()
    modules = [name for name, _ in family.network.named_modules()]
    before = fingerprint(family.network)
    trainer = make_trainer(tmp_path / "run", family)
    trainer.train(trainer.prepare_dataset(data))
    assert fingerprint(family.network) == before
    assert [name for name, _ in family.network.named_modules()] == modules
    assert not family.network.training


def test_two_runs_of_one_seed_are_equal_and_another_seed_differs(tmp_path: Path, data: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.randn(len(name))
        trainer = make_trainer(tmp_path / name, seed=seed)
        trainer.train(trainer.prepare_dataset(data))
    a, b, c = (factors(tmp_path / name / "adapter") for name in "abc")
    assert_equal(a, b)
    assert not all(torch.equal(tensor, c[name]) for name, tensor in a.items())


def test_training_leaves_the_global_random_numbers_as_they_were(tmp_path: Path, data: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer = make_trainer(tmp_path / "run", epochs=1)
    trainer.train(trainer.prepare_dataset(data))
    assert torch.equal(torch.rand(3), expected)


def test_accumulated_small_batches_are_the_large_batch(tmp_path: Path, data: Path):
    results = []
    for name, batch_size, accumulation in (("small", 1, 4), ("middle", 2, 2), ("large", 4, 1)):
        watcher = Watcher()
        # Plain descent would be the purest comparison; with AdamW rounding grows, so few steps and a tolerance.
        trainer = make_trainer(
            tmp_path / name,
            lora={"dropout": 0.0},
            batch_size=batch_size,
            gradient_accumulation=accumulation,
            epochs=2,
            learning_rate=1e-3,
        )
        trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
        results.append(watcher.steps)
    for other in results[1:]:
        assert [step.loss for step in other] == pytest.approx([step.loss for step in results[0]], rel=1e-5)
        assert [step.grad_norm for step in other] == pytest.approx([step.grad_norm for step in results[0]], rel=1e-4)


@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path: Path, data: Path, stop_at: int):
    dataset = make_trainer(tmp_path / "whole").prepare_dataset(data)
    whole, first, second = Watcher(), Watcher(), Watcher()
    make_trainer(tmp_path / "whole").train(dataset, callbacks=[whole])
    halt = At(stop_at, lambda control: control.stop("enough"))
    summary = make_trainer(tmp_path / "parts").train(dataset, callbacks=[first, halt])
    assert (summary.outcome, summary.reason, summary.steps) == ("stopped", "enough", stop_at)
    torch.randn(7)
    make_trainer(tmp_path / "parts").train(dataset, callbacks=[second], resume=True)
    assert_equal(factors(tmp_path / "whole" / "adapter"), factors(tmp_path / "parts" / "adapter"))
    assert [s.loss for s in first.steps + second.steps] == [s.loss for s in whole.steps]
    assert second.epochs[-1].loss == whole.epochs[-1].loss
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, len(whole.steps) + 1))


def test_ctrl_c_finishes_the_step_keeps_the_state_and_interrupts(tmp_path: Path, data: Path):
    trainer, watcher = make_trainer(tmp_path / "run"), Watcher()
    dataset = trainer.prepare_dataset(data)
    press = At(2, lambda control: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(dataset, callbacks=[watcher, press])
    assert [path.name for path in watcher.checkpoints] == ["epoch-0001-step-000002"]
    assert len(watcher.steps) == 2
    assert len(watcher.failures) == 1
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert trainer.save_lora(tmp_path / "early").exists()
    assert not [name for name, _ in trainer.family.network.named_parameters() if "lora" in name]
    make_trainer(tmp_path / "whole").train(dataset)
    make_trainer(tmp_path / "run").train(dataset, resume=True)
    assert_equal(factors(tmp_path / "whole" / "adapter"), factors(tmp_path / "run" / "adapter"))


class TurnsToNan(SmallFamily):
    calls = 0

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        predicted = super().velocity(latents, sigmas, conditioning)
        if torch.is_grad_enabled():
            self.calls += 1
        return predicted * (float("nan") if self.calls > 7 else 1.0)


def test_nan_in_the_loss_stops_the_run_and_names_the_last_good_checkpoint(tmp_path: Path, data: Path):
    family = TurnsToNan()
    trainer = make_trainer(tmp_path / "run", family)
    watcher = Watcher()
    with pytest.raises(TrainingError) as error:
        trainer.train(trainer.prepare_dataset(data), callbacks=[watcher, SaveCheckpointCallback(every=1)])
    # Three steps an epoch of two batches each: the eighth batch is the second of the fourth step.
    last = tmp_path / "run" / "checkpoints" / "epoch-0001"
    assert "the loss became nan at step 4" in str(error.value)
    assert str(last) in str(error.value)
    assert "track_" in str(error.value)
    assert watcher.failures == [error.value]
    assert all(tensor.isfinite().all() for tensor in factors(last / "adapter").values())
    assert not (tmp_path / "run" / "adapter").exists()


def test_nan_before_any_checkpoint_says_that_there_is_none(tmp_path: Path, data: Path):
    family = TurnsToNan()
    family.calls = 100
    trainer = make_trainer(tmp_path / "run", family)
    with pytest.raises(TrainingError, match="no checkpoint had been written yet"):
        trainer.train(trainer.prepare_dataset(data))


def test_a_run_with_another_rank_or_data_is_not_resumed_and_says_what_differs(tmp_path: Path, data: Path):
    trainer = make_trainer(tmp_path / "run", epochs=1)
    dataset = trainer.prepare_dataset(data)
    trainer.train(dataset)
    told = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(TrainingError, match=r"lora\.rank is 3, was 2"):
        make_trainer(tmp_path / "run", lora={"rank": 3}, epochs=2).train(dataset, resume=True)
    fewer = LatentDataset(dataset.tracks[:-1], dataset.crop_frames)
    with pytest.raises(TrainingError, match="tracks removed: track_006"):
        make_trainer(tmp_path / "run", epochs=2).train(fewer, resume=True)
    # What was refused has not changed what the folder says of its run.
    assert (tmp_path / "run" / "config.yaml").read_text() == told


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path, data: Path):
    trainer = make_trainer(tmp_path / "run", epochs=1)
    dataset = trainer.prepare_dataset(data)
    trainer.train(dataset)
    with pytest.raises(TrainingError, match="holds a run already"):
        trainer.train(dataset)


def test_max_steps_ends_a_run_inside_an_epoch_with_a_last_validation(tmp_path: Path, data: Path):
    trainer, watcher = make_trainer(tmp_path / "run", max_steps=4), Watcher()
    summary = trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
    assert (summary.outcome, summary.steps) == ("finished", 4)
    assert watcher.validations[-1].step == 4
    assert watcher.steps[-1].eta_s == 0
    assert watcher.steps[-1].learning_rate < watcher.steps[1].learning_rate


def test_target_modules_that_match_nothing_are_an_error_before_any_work(tmp_path: Path):
    with pytest.raises(AdapterError, match="there are: q_proj"):
        make_trainer(tmp_path / "run", lora={"target_modules": ["qproj"]})


def test_saving_before_training_says_what_to_do(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"train\(\) first"):
        make_trainer(tmp_path / "run").save_lora(tmp_path / "adapter")


def test_gradient_checkpointing_and_bf16_train_to_nearly_the_same(tmp_path: Path, data: Path):
    losses = {}
    for name, changes in (
        ("plain", {}),
        ("checkpointed", {"gradient_checkpointing": True}),
        ("bf16", {"precision": "bf16"}),
    ):
        family, watcher = SmallFamily(), Watcher()
        config = make_config(tmp_path / name).model_copy(update=changes)
        trainer = Trainer(family, config)
        trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
        losses[name] = [step.loss for step in watcher.steps]
        assert family.network.gradient_checkpointing is False
    assert losses["checkpointed"] == pytest.approx(losses["plain"], rel=1e-5)
    assert losses["bf16"] == pytest.approx(losses["plain"], rel=0.05)


def test_tracks_of_unequal_length_train_to_the_same_in_batches_of_any_size(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=4, duration_s=1.0)
    write_tone(root / "audio" / "track_000.wav", 0.6)
    losses = []
    for batch_size in (1, 4):
        watcher = Watcher()
        trainer = make_trainer(
            tmp_path / str(batch_size),
            lora={"dropout": 0.0},
            batch_size=batch_size,
            gradient_accumulation=4 // batch_size,
            epochs=2,
            learning_rate=1e-3,
        )
        trainer.train(trainer.prepare_dataset(root), callbacks=[watcher])
        losses.append([step.loss for step in watcher.steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_one_track_trains_without_validation(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=1)
    trainer, watcher = make_trainer(tmp_path / "run", epochs=1), Watcher()
    summary = trainer.train(trainer.prepare_dataset(root), callbacks=[watcher])
    assert summary.last_validation is None
    assert watcher.epochs[0].validation is None


def test_dropout_of_conditioning_is_the_familys(tmp_path: Path, data: Path):
    seen: list[Tensor] = []

    class Watched(SmallFamily):
        noise = TrainingNoise(text_dropout=1.0, speaker_dropout=1.0, lyric_dropout=1.0)

        def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
            if torch.is_grad_enabled():
                seen.append(conditioning.text_states)
            return super().velocity(latents, sigmas, conditioning)

    trainer = make_trainer(tmp_path / "run", Watched(), epochs=1)
    trainer.train(trainer.prepare_dataset(data))
    assert seen
    assert not any(states.any() for states in seen)


def test_a_local_bases_path_stays_out_of_the_adapter(tmp_path: Path, data: Path):
    trainer = make_trainer(tmp_path / "run", epochs=1)
    trainer.base_name = str(data)
    adapter = read_adapter(trainer.train(trainer.prepare_dataset(data)).adapter)
    assert adapter.metadata.base_model == data.name


def test_epochs_given_to_train_go_before_the_configs_and_into_the_record(tmp_path: Path, data: Path):
    trainer, watcher = make_trainer(tmp_path / "run"), Watcher()
    trainer.train(trainer.prepare_dataset(data), epochs=2, callbacks=[watcher])
    assert len(watcher.epochs) == 2
    assert TrainingConfig.from_yaml(tmp_path / "run" / "config.yaml").training.epochs == 2


class SmallMemory(SmallFamily):
    """Holds a batch of `room` windows, and more without gradients."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        room = 1 if self.room == 0 and self.network.gradient_checkpointing else self.room
        if torch.is_grad_enabled() and len(latents) > room:
            raise torch.OutOfMemoryError("out of memory")
        return super().velocity(latents, sigmas, conditioning)


@pytest.mark.parametrize(("room", "answers"), [(2, 1), (1, 2), (0, 3)])
def test_a_full_memory_makes_batches_smaller_and_changes_nothing_else(
    tmp_path: Path, data: Path, room: int, answers: int
):
    losses = []
    for name, family in (("large", SmallFamily()), ("small", SmallMemory(room))):
        watcher = Watcher()
        trainer = make_trainer(
            tmp_path / name, family, lora={"dropout": 0.0}, batch_size=4, gradient_accumulation=1, learning_rate=1e-3
        )
        trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
        losses.append([step.loss for step in watcher.steps])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    told = [json.loads(line) for line in (tmp_path / "small" / "events.jsonl").read_text().splitlines()]
    assert len([event for event in told if event["event"] == "out of memory"]) == answers


def test_a_memory_too_small_for_one_window_says_what_would_help(tmp_path: Path, data: Path):
    family = SmallMemory(-1)
    trainer = make_trainer(tmp_path / "run", family)
    with pytest.raises(TrainingError, match=r"max_duration.*base_quantization.*rank"):
        trainer.train(trainer.prepare_dataset(data))


def test_a_paused_run_waits_with_its_state_kept_and_goes_on_to_the_same_end(tmp_path: Path, data: Path):
    dataset = make_trainer(tmp_path / "calm").prepare_dataset(data)
    make_trainer(tmp_path / "calm").train(dataset)
    out = tmp_path / "paused"

    def pause(control: RunControl) -> None:
        command_run(out, "pause")
        threading.Timer(0.8, command_run, (out, "run")).start()

    make_trainer(out).train(dataset, callbacks=[At(2, pause)])
    assert_equal(factors(out / "adapter"), factors(tmp_path / "calm" / "adapter"))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "started",
        "checkpoint",
        "paused",
        "went on",
        "checkpoint",
        "finished",
    ]
    assert events[3]["paused_s"] > 0.5
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(step["seconds"] < 0.5 for step in steps if "seconds" in step)


def test_a_cancelled_run_keeps_what_it_learned_and_can_go_on(tmp_path: Path, data: Path):
    dataset = make_trainer(tmp_path / "calm").prepare_dataset(data)
    make_trainer(tmp_path / "calm").train(dataset)
    out = tmp_path / "cancelled"
    summary = make_trainer(out).train(dataset, callbacks=[At(4, lambda control: command_run(out, "cancel"))])
    assert (summary.outcome, summary.steps) == ("cancelled", 4)
    assert read_adapter(out / "adapter").factors
    assert make_trainer(out).train(dataset, resume=True).outcome == "finished"
    assert_equal(factors(out / "adapter"), factors(tmp_path / "calm" / "adapter"))


def test_sigterm_ends_a_run_in_order(tmp_path: Path, data: Path):
    trainer = make_trainer(tmp_path / "run")
    end = At(2, lambda control: os.kill(os.getpid(), signal.SIGTERM))
    summary = trainer.train(trainer.prepare_dataset(data), callbacks=[end])
    assert (summary.outcome, summary.steps) == ("stopped", 2)
    assert "SIGTERM" in summary.reason


def test_the_state_that_was_kept_as_the_best_becomes_the_result_over_a_resume_too(tmp_path: Path, data: Path):
    dataset = make_trainer(tmp_path / "short").prepare_dataset(data)
    short = make_trainer(tmp_path / "short").train(dataset, callbacks=[At(3, lambda c: c.stop("enough"))])
    keep = At(3, lambda control: control.keep_best())
    halt = At(5, lambda control: control.stop("for now"))
    make_trainer(tmp_path / "long").train(dataset, callbacks=[keep, halt])
    summary = make_trainer(tmp_path / "long").train(dataset, resume=True)
    assert (summary.best_step, summary.steps) == (3, 9)
    assert_equal(factors(summary.adapter), factors(short.adapter))


def test_a_run_that_gets_no_better_stops_early_and_restores_its_best_epoch(tmp_path: Path, data: Path):
    watcher = Watcher()
    stopping = EarlyStoppingSection(patience=2)
    trainer = make_trainer(tmp_path / "run", learning_rate=0.5, epochs=40, warmup_steps=0, early_stopping=stopping)
    summary = trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
    assert summary.outcome == "stopped"
    best = min(watcher.validations, key=lambda validation: validation.val_loss)
    assert summary.best_step == (best.step or None)
    assert watcher.epochs[-1].epoch < 40


def test_an_average_of_the_steps_is_what_is_validated_and_saved(tmp_path: Path, data: Path):
    dataset = make_trainer(tmp_path / "plain").prepare_dataset(data)
    plain, averaged = Watcher(), Watcher()
    make_trainer(tmp_path / "plain").train(dataset, callbacks=[plain])
    make_trainer(tmp_path / "averaged", ema_decay=0.9).train(dataset, callbacks=[averaged])
    assert [step.loss for step in averaged.steps] == [step.loss for step in plain.steps]
    assert averaged.validations[-1].val_loss != plain.validations[-1].val_loss
    one, other = factors(tmp_path / "plain" / "adapter"), factors(tmp_path / "averaged" / "adapter")
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_base_with_nan_in_its_weights_is_named_before_any_work(tmp_path: Path, data: Path):
    family = SmallFamily()
    dataset = make_trainer(tmp_path / "other").prepare_dataset(data)
    next(iter(family.network.parameters()))[0] = float("nan")
    with pytest.raises(CheckpointError, match="hold NaN or infinity in"):
        make_trainer(tmp_path / "run", family).train(dataset)
    assert not (tmp_path / "run").exists()


def test_what_a_resumed_run_does_otherwise_is_written_down(tmp_path: Path, data: Path):
    dataset = make_trainer(tmp_path / "run", epochs=1).prepare_dataset(data)
    make_trainer(tmp_path / "run", epochs=1).train(dataset)
    make_trainer(tmp_path / "run", epochs=2, learning_rate=1e-3).train(dataset, resume=True)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    changed = next(event for event in events if event["event"] == "settings changed")
    assert changed["training.epochs"] == {"was": 1, "is": 2}
    assert changed["training.learning_rate"] == {"was": 1e-2, "is": 1e-3}


def test_every_step_says_what_it_saw_and_what_it_cost(tmp_path: Path, data: Path):
    trainer, watcher = make_trainer(tmp_path / "run"), Watcher()
    trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
    for step in watcher.steps:
        assert step.loss == pytest.approx(sum(example.loss for example in step.examples) / len(step.examples))
        assert all(0 < example.sigma <= 1 for example in step.examples)
        assert step.audio_s == pytest.approx(2.0 * len(step.examples), rel=0.05)
        assert step.memory_bytes > 1e6
        assert 0 <= step.waiting_s <= step.seconds


def test_training_levels_and_dropped_conditioning_are_as_configured(tmp_path: Path, data: Path):
    seen: list[Tensor] = []

    class Watched(SmallFamily):
        def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
            if torch.is_grad_enabled():
                seen.append(conditioning.text_states)
            return super().velocity(latents, sigmas, conditioning)

    levels = {}
    for distribution in ("logit_normal", "uniform"):
        watcher = Watcher()
        trainer = make_trainer(
            tmp_path / distribution,
            Watched(),
            timestep_distribution=distribution,
            timestep_shift=1.0,
            conditioning_dropout=DropoutRates(text=1.0),
            epochs=20,
        )
        trainer.train(trainer.prepare_dataset(data), callbacks=[watcher])
        levels[distribution] = torch.tensor([example.sigma for step in watcher.steps for example in step.examples])
    assert not any(states.any() for states in seen)
    assert levels["uniform"].std() == pytest.approx(12**-0.5, abs=0.04)
    assert levels["logit_normal"].std() < 0.24


def test_a_run_is_planned_before_it_begins_and_its_plan_written_down(tmp_path: Path, data: Path):
    trainer = make_trainer(tmp_path / "run", epochs=1)
    dataset = trainer.prepare_dataset(data)
    trainer.train(dataset, check=True)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    planned = next(event for event in events if event["event"] == "planned")
    assert planned["steps"] == 3
    assert planned["fits"] is True
    assert "memory on cpu" in planned["message"]


def test_a_run_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("acestep.training.planning.planner.memory_limit", lambda device: 1000)
    trainer = make_trainer(tmp_path / "run")
    dataset = trainer.prepare_dataset(data)
    with pytest.raises(TrainingError, match=r"does not fit in memory.*check=False"):
        trainer.train(dataset, check=True)
    assert not (tmp_path / "run").exists()
    assert trainer.train(dataset).outcome == "finished"


def test_an_adapter_says_how_it_was_trained_and_does_what_it_did_then(tmp_path: Path, data: Path):
    lora = {"use_dora": True, "use_rslora": True, "rank_pattern": {"to_q": 3}, "dropout": 0.0}
    family, watcher = SmallFamily(), Watcher()
    trainer = make_trainer(tmp_path / "run", family, lora=lora)
    dataset = trainer.prepare_dataset(data)
    summary = trainer.train(dataset, callbacks=[watcher])
    adapter = read_adapter(summary.adapter, module_shapes(family.network))
    trained = adapter.metadata.trained
    assert trained is not None
    assert (trained.dora, trained.rslora, trained.rank) == (True, True, 2)
    assert set(trained.ranks.values()) == {3}
    attach(family.network, adapter, name="a")
    _, held_out = dataset.split(0.25)
    assert held_out is not None
    again = held_out_loss(family, held_out, seed=0)
    assert again.mean == pytest.approx(watcher.validations[-1].val_loss, rel=1e-4)


def test_a_loaded_base_is_not_quantised_behind_its_owners_back(tmp_path: Path, data: Path):
    config = make_config(tmp_path / "run").model_copy(update={"base_quantization": "int8"})
    family = SmallFamily()
    with pytest.raises(ConfigError, match="load it with load_family"):
        Trainer(family, config)
    quantize_network(family.network, "int8", smallest=64)
    trainer = Trainer(family, config)
    before = {name: tensor.clone() for name, tensor in family.network.state_dict().items()}
    trainer.train(trainer.prepare_dataset(data, cache_dir=tmp_path / "cache"))
    after = family.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_cache_that_vanishes_in_mid_run_leaves_the_last_whole_state_and_names_it(tmp_path: Path):
    root = write_dataset(tmp_path / "data", tracks=4)
    trainer = make_trainer(tmp_path / "run")
    dataset = trainer.prepare_dataset(root, cache_dir=tmp_path / "cache")
    lose = At(3, lambda control: shutil.rmtree(tmp_path / "cache"))
    with pytest.raises(DatasetError, match=r"has gone from the cache.*the last good checkpoint is .*epoch-000"):
        trainer.train(dataset, callbacks=[lose])
    again = trainer.prepare_dataset(root, cache_dir=tmp_path / "cache")
    assert make_trainer(tmp_path / "run").train(again, resume=True).outcome == "finished"


def test_a_disk_that_fills_up_at_the_very_end_keeps_the_run_and_says_how_to_go_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
):
    trainer, watcher = make_trainer(tmp_path / "run"), Watcher()
    dataset = trainer.prepare_dataset(data)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("acestep.training.trainer.write_adapter", full)
        with pytest.raises(TrainingError, match=r"No space left.*kept in .*epoch-0003.*--resume"):
            trainer.train(dataset, callbacks=[watcher])
    assert len(watcher.failures) == 1
    assert make_trainer(tmp_path / "run").train(dataset, resume=True).adapter.is_dir()


def test_a_run_without_held_out_tracks_says_what_it_cannot_tell(tmp_path: Path):
    trainer = make_trainer(tmp_path / "run", epochs=1)
    trainer.train(trainer.prepare_dataset(write_dataset(tmp_path / "data", tracks=1)))
    started = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert any("no track is held out" in warning for warning in started["warnings"])
