"""Runs of two processes: what they come to, and how they end. All of them happen in one pair of forked processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acestep.datasets import LatentDataset
from acestep.errors import AceStepError
from acestep.families.base import Conditioning
from acestep.lora import read_adapter
from acestep.training import LoRATrainer, StepResult, TrainingCallback, TrainingConfig, ValidationResult
from acestep.training.callbacks.base import RunControl
from acestep.training.checkpoints import latest_checkpoint
from acestep.training.commands import command_run
from acestep.training.config import DataSection, LoopSection, LoraSection, SampleSection
from acestep.training.processes import Processes, join_processes, shared_out
from acestep.training.run_folder import RunFolder
from small_family import SmallFamily, write_dataset

COUNT = 2
_LIMIT_S = 120
_TRACKS = 9
LARGE_BATCHES = {"batch_size": 3, "gradient_accumulation": 1, "dropout": 0.0}
# Sums of float32 in another order, which Adam passes on to the adapter.
NEAR = {"rtol": 1e-5, "atol": 1e-7}


def make_trainer(
    out: Path,
    family: SmallFamily | None = None,
    *,
    dropout: float = 0.1,
    base_quantization: str | None = None,
    gradient_checkpointing: bool = False,
    **loop: object,
) -> LoRATrainer:
    values = {"epochs": 3, "gradient_accumulation": 3, "learning_rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9}
    config = TrainingConfig(
        output_dir=str(out),
        lora=LoraSection(rank=2, alpha=4.0, dropout=dropout),
        training=LoopSection(**{**values, **loop}),  # type: ignore[arg-type]
        data=DataSection(max_duration=2.0, validation_split=0.25),
        samples=SampleSection(every_epochs=None),
        precision="fp32",
        base_quantization=base_quantization,  # type: ignore[arg-type]
        gradient_checkpointing=gradient_checkpointing,
    )
    return LoRATrainer(family or SmallFamily(), config)


@dataclass
class Watcher(TrainingCallback):
    steps: list[StepResult] = field(default_factory=list)
    validations: list[ValidationResult] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self.steps.append(result)

    def on_validation(self, result: ValidationResult, control: RunControl) -> None:
        self.validations.append(result)

    def on_event(self, event: str, details: Any) -> None:
        self.events.append(event)

    def told(self) -> dict[str, Any]:
        return {
            "losses": [step.loss for step in self.steps],
            "norms": [step.grad_norm for step in self.steps],
            "examples": [sorted((e.track, e.sigma) for e in step.examples) for step in self.steps],
            "audio_s": [step.audio_s for step in self.steps],
            "val_losses": [validation.by_track for validation in self.validations],
            "events": self.events,
        }


class At(TrainingCallback):
    def __init__(self, step: int, act: Callable[[RunControl], None]) -> None:
        self.step, self.act = step, act

    def on_step(self, result: StepResult, control: RunControl) -> None:
        if result.step == self.step:
            self.act(control)


class Troubled(SmallFamily):
    """Something happens in one process at its nth training batch."""

    def __init__(self, rank: int, at: int, trouble: Callable[[], Tensor | None]) -> None:
        super().__init__()
        self.left, self.trouble = at if int(os.environ.get("RANK", 0)) == rank else -1, trouble

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        predicted = super().velocity(latents, sigmas, conditioning)
        if torch.is_grad_enabled():
            self.left -= 1
            if self.left == 0:
                spoilt = self.trouble()
                return predicted if spoilt is None else predicted * spoilt
        return predicted


def not_a_number() -> Tensor:
    return torch.tensor(float("nan"))


def no_memory() -> Tensor:
    raise torch.OutOfMemoryError("no memory left")


def hang_up() -> None:
    os._exit(9)


def told_to(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def fail(control: RunControl) -> None:
    raise ValueError("a callback of the first process alone")


def stop(control: RunControl) -> None:
    control.stop("enough")


def pause_for_a_moment(folder: Path) -> Callable[[RunControl], None]:
    def pause(control: RunControl) -> None:
        command_run(folder, "pause")
        threading.Timer(0.3, command_run, (folder, "run")).start()

    return pause


def scenarios(root: Path, data: Path, out: Path) -> dict[str, Callable[[], Any]]:
    """What the two processes do one after the other, each in a folder of its own; the last one ends one of them."""
    first = os.environ["RANK"] == "0"
    dataset = make_trainer(root / "unused").prepare_dataset(data)

    def run(name: str, family: SmallFamily | None = None, *callbacks: TrainingCallback, **options: Any) -> Any:
        resume = options.pop("resume", False)
        watcher = Watcher()
        trainer = make_trainer(out / name, family, **options)
        summary = trainer.train(dataset, callbacks=[watcher, *callbacks], resume=resume, check=False)
        return {"outcome": summary.outcome, "reason": summary.reason, "steps": summary.steps, **watcher.told()}

    return {
        "prepare": lambda: sorted(str(track.latents) for track in dataset.tracks),
        "calm": lambda: run("calm"),
        "large batches": lambda: run("large", **LARGE_BATCHES),
        "resumed": lambda: run("interrupted", resume=True),
        "paused": lambda: run("paused", None, At(2, pause_for_a_moment(out / "paused"))),
        "stopped": lambda: run("stopped", None, At(2, stop)),
        "terminated": lambda: run("terminated", Troubled(1, 3, told_to(signal.SIGTERM))),
        "interrupted": lambda: run("ctrl-c", Troubled(0, 3, told_to(signal.SIGINT))),
        "callback": lambda: run("callback", None, At(2, fail)),
        "nan": lambda: run("nan", Troubled(1, 2, not_a_number)),
        "no memory": lambda: run("memory", Troubled(1, 2, no_memory), batch_size=2, gradient_accumulation=2),
        "same folder": lambda: run("calm"),
        "different": lambda: run("different", None, learning_rate=1e-3 if first else 2e-3),
        "dying": lambda: run("dying", Troubled(1, 4, hang_up)),
    }


class Sharing(TrainingCallback):
    """How many numbers of the blocks' base this process holds, seen from within the run."""

    def __init__(self, family: SmallFamily) -> None:
        self.family, self.held = family, 0

    def on_step(self, result: StepResult, control: RunControl) -> None:
        self.held = held_numbers(self.family)


def held_numbers(family: SmallFamily) -> int:
    found = (p for name, p in family.network.transformer_blocks.named_parameters() if "lora_changes" not in name)
    return sum(getattr(p, "_local_tensor", p).numel() for p in found)


def scenarios_of_a_shared_base(root: Path, data: Path, out: Path) -> dict[str, Callable[[], Any]]:
    dataset = make_trainer(root / "unused").prepare_dataset(data)

    def run(name: str, family: SmallFamily, *callbacks: TrainingCallback, **options: Any) -> dict[str, Any]:
        watcher = Watcher()
        summary = make_trainer(out / name, family, **options).train(
            dataset, callbacks=[watcher, *callbacks], check=False
        )
        return {"outcome": summary.outcome, "steps": summary.steps, **watcher.told()}

    def restored() -> dict[str, Any]:
        family = SmallFamily()
        modules, print_, whole = list(family.network.modules()), family.fingerprint(), held_numbers(family)
        sharing = Sharing(family)
        told = run("shared", family, sharing, gradient_checkpointing=True)
        after = list(family.network.modules())
        same = len(after) == len(modules) and all(a is b for a, b in zip(after, modules, strict=True))
        return {
            **told,
            "same modules": same,
            "same base": family.fingerprint() == print_,
            "held": sharing.held,
            "whole": whole,
        }

    return {
        "restored": restored,
        "terminated": lambda: run("terminated", Troubled(1, 3, told_to(signal.SIGTERM))),
        "quantised": lambda: make_trainer(out / "quantised", base_quantization="int8"),
    }


Scenarios = Callable[[Path, Path, Path], dict[str, Callable[[], Any]]]


def work(rank: int, port: int, root: Path, data: Path, out: Path, scenarios: Scenarios, shares: bool) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(COUNT),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_FSDP": str(shares).lower(),
    }
    results: dict[str, Any] = {}
    for name, act in scenarios(root, data, out).items():
        try:
            results[name] = act()
        except (AceStepError, ValueError, KeyboardInterrupt) as error:
            results[name] = {"error": type(error).__name__, "said": str(error)}
        (root / f"rank{rank}.json").write_text(json.dumps(results))


@dataclass
class Ran:
    """What both processes said, where their runs lie, and the dataset that they trained on."""

    results: list[dict[str, Any]]
    exit_codes: list[int | None]
    out: Path
    dataset: LatentDataset

    def first(self, name: str) -> dict[str, Any]:
        return self.results[0][name]

    def both(self, name: str) -> list[dict[str, Any]]:
        return [result[name] for result in self.results]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("two")
    interrupted_in_mid_step(root / "out" / "interrupted", write_dataset(root / "data", _TRACKS, duration_s=3.0))
    return run_two(root, scenarios)


@pytest.fixture(scope="module")
def ran_sharing(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("sharing")
    write_dataset(root / "data", _TRACKS, duration_s=3.0)
    return run_two(root, scenarios_of_a_shared_base, shares=True)


def run_two(root: Path, scenarios: Scenarios, *, shares: bool = False) -> Ran:
    data, out = root / "data", root / "out"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    forked = multiprocessing.get_context("fork")
    processes = [
        forked.Process(target=work, args=(rank, port, root, data, out, scenarios, shares)) for rank in range(COUNT)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + _LIMIT_S
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} processes were still at work after {_LIMIT_S} s"
    results = [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(COUNT)]
    dataset = make_trainer(root / "unused").prepare_dataset(data)
    return Ran(results, [process.exitcode for process in processes], out, dataset)


def interrupted_in_mid_step(out: Path, data: Path) -> None:
    """A run of one process that was interrupted after 2 of a step's 3 batches."""
    trainer = make_trainer(out, Troubled(0, 5, told_to(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(trainer.prepare_dataset(data), check=False)
    checkpoint = latest_checkpoint(RunFolder(out).checkpoints())
    assert checkpoint is not None
    assert (checkpoint.position.step, checkpoint.position.batches_done) == (1, 2)


@pytest.fixture(scope="module")
def alone(ran: Ran) -> tuple[Path, dict[str, Any]]:
    watcher = Watcher()
    make_trainer(ran.out / "alone").train(ran.dataset, callbacks=[watcher], check=False)
    return ran.out / "alone" / "adapter", watcher.told()


def factors(folder: Path) -> dict[str, Tensor]:
    found = read_adapter(folder).factors.items()
    return {f"{module}.{side}": getattr(part, side) for module, part in found for side in "ab"}


def assert_near(folder: Path, other: Path) -> None:
    mine, theirs = factors(folder), factors(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], **NEAR)


def test_two_processes_come_to_what_one_comes_to(ran: Ran, alone: tuple[Path, dict[str, Any]]):
    folder, told = alone
    found = ran.first("calm")
    assert found["outcome"] == "finished"
    assert found["losses"] == pytest.approx(told["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(told["norms"], rel=1e-4)
    assert found["examples"] == [[list(example) for example in step] for step in told["examples"]]
    assert found["audio_s"] == pytest.approx(told["audio_s"])
    for one, other in zip(found["val_losses"], told["val_losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert_near(ran.out / "calm" / "adapter", folder)


def test_a_batch_that_would_leave_a_process_idle_is_cut_and_comes_to_the_same(ran: Ran):
    watcher = Watcher()
    summary = make_trainer(ran.out / "large alone", **LARGE_BATCHES).train(  # type: ignore[arg-type]
        ran.dataset, callbacks=[watcher], check=False
    )
    assert ran.first("large batches")["losses"] == pytest.approx(watcher.told()["losses"], rel=1e-5)
    assert_near(ran.out / "large" / "adapter", summary.adapter)


def test_both_prepare_the_same_dataset(ran: Ran):
    assert ran.results[0]["prepare"] == ran.results[1]["prepare"]


def test_only_the_first_process_has_callbacks_and_all_know_the_summary(ran: Ran):
    first, second = ran.both("calm")
    assert second["losses"] == []
    assert (first["steps"], first["outcome"]) == (second["steps"], second["outcome"])
    rows = (ran.out / "calm" / "metrics.jsonl").read_text().splitlines()
    assert len([row for row in rows if '"loss"' in row and '"grad_norm"' in row]) == first["steps"]


def test_a_step_that_one_process_left_in_its_middle_is_ended_by_two(ran: Ran, alone: tuple[Path, dict[str, Any]]):
    folder, told = alone
    assert ran.first("resumed")["losses"] == pytest.approx(told["losses"][1:], rel=1e-5)
    assert_near(ran.out / "interrupted" / "adapter", folder)


def test_a_stop_by_a_callback_stops_both_at_the_same_step(ran: Ran):
    assert [(end["outcome"], end["reason"], end["steps"]) for end in ran.both("stopped")] == [
        ("stopped", "enough", 2)
    ] * 2


def test_a_pause_holds_both_and_changes_nothing(ran: Ran, alone: tuple[Path, dict[str, Any]]):
    assert ran.first("paused")["events"] == ["paused", "went on"]
    assert ran.first("paused")["losses"] == ran.first("calm")["losses"]
    assert_near(ran.out / "paused" / "adapter", alone[0])


def test_a_signal_to_one_ends_both_with_the_last_whole_step_kept(ran: Ran):
    # The second process is told in its only batch of the third step, the first one between two of the second step.
    assert {(end["outcome"], end["steps"]) for end in ran.both("terminated")} == {("stopped", 3)}
    assert {end["error"] for end in ran.both("interrupted")} == {"KeyboardInterrupt"}
    checkpoint = latest_checkpoint(RunFolder(ran.out / "ctrl-c").checkpoints())
    assert checkpoint is not None
    assert (checkpoint.position.step, checkpoint.position.batches_done) == (1, 0)


def test_an_error_of_one_is_the_error_of_both(ran: Ran):
    assert ran.both("callback") == [{"error": "ValueError", "said": "a callback of the first process alone"}] * 2
    assert {end["error"] for end in ran.both("nan")} == {"TrainingError"}
    assert all("the loss became nan at step 2" in end["said"] for end in ran.both("nan"))
    assert "epoch-0001-step-000001" in ran.first("nan")["said"]
    assert all("holds a run already" in end["said"] for end in ran.both("same folder"))


def test_a_full_memory_in_one_makes_the_batches_of_both_smaller(ran: Ran):
    found = ran.first("no memory")
    assert found["outcome"] == "finished"
    assert found["events"].count("out of memory") == 1


def test_processes_that_were_given_different_things_do_not_train(ran: Ran):
    assert all("differ in their config" in end["said"] for end in ran.both("different"))


def test_when_one_dies_the_other_ends_with_an_error_and_one_process_goes_on(
    ran: Ran, alone: tuple[Path, dict[str, Any]]
):
    assert ran.exit_codes == [0, 9]
    assert ran.first("dying")["error"] == "TrainingError"
    assert "--resume" in ran.first("dying")["said"]
    summary = make_trainer(ran.out / "dying").train(ran.dataset, resume=True, check=False)
    assert summary.outcome == "finished"
    assert_near(summary.adapter, alone[0])


def test_a_base_in_parts_trains_as_a_whole_one_and_is_put_together_again(
    ran_sharing: Ran, alone: tuple[Path, dict[str, Any]]
):
    found, other = ran_sharing.both("restored")
    assert found["losses"] == pytest.approx(alone[1]["losses"], rel=1e-5)
    assert found["examples"] == [[list(example) for example in step] for step in alone[1]["examples"]]
    assert_near(ran_sharing.out / "shared" / "adapter", alone[0])
    assert found["held"] < 0.6 * found["whole"]
    for result in (found, other):
        assert result["same base"]
        assert result["same modules"]


def test_a_signal_ends_a_run_with_the_base_in_parts_at_the_end_of_the_step(ran_sharing: Ran):
    assert {(end["outcome"], end["steps"]) for end in ran_sharing.both("terminated")} == {("stopped", 2)}


def test_a_quantised_base_is_not_shared_out(ran_sharing: Ran):
    assert {end["error"] for end in ran_sharing.both("quantised")} == {"ConfigError"}


@pytest.mark.parametrize(
    ("costs", "count", "expected"),
    [
        ([1, 1, 1], 1, [[0, 1, 2]]),
        ([1, 1, 1], 2, [[0, 2], [1]]),
        ([5, 1, 1, 1, 2], 2, [[0], [1, 2, 3, 4]]),
        ([1], 3, [[0], [], []]),
        ([], 2, [[], []]),
    ],
)
def test_shares_cost_about_the_same_and_keep_their_order(costs: list[int], count: int, expected: list[list[int]]):
    assert shared_out(range(len(costs)), lambda place: costs[place], count) == expected


@pytest.mark.parametrize(
    "environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "x"}]
)
def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    alone = join_processes(torch.device("cpu"))
    assert type(alone) is Processes
    parameter = nn.Parameter(torch.zeros(2))
    alone.add_up([parameter])
    assert parameter.grad is None
    assert alone.together(lambda: 3) == [3]
