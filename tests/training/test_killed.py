"""Runs that are killed, and what they lose: nothing that a checkpoint held."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.datasets import LatentDataset
from acestep.families.base import Conditioning
from acestep.lora import read_adapter
from acestep.training import LoRATrainer, StepResult, TrainingCallback, TrainingConfig
from acestep.training.callbacks.base import RunControl
from acestep.training.checkpoints import latest_checkpoint
from acestep.training.config import DataSection, LoopSection, LoraSection, SampleSection
from acestep.training.run_folder import RunFolder
from small_family import SmallFamily, write_dataset

_FINISH_S = 60


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    root = write_dataset(tmp_path_factory.mktemp("data"), tracks=7, duration_s=3.0)
    return trainer(root / "unused").prepare_dataset(root)


def trainer(out: Path, family: SmallFamily | None = None, **loop: object) -> LoRATrainer:
    values = {
        "epochs": 4,
        "gradient_accumulation": 3,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        **loop,
    }
    config = TrainingConfig(
        output_dir=str(out),
        lora=LoraSection(rank=2, alpha=4.0),
        training=LoopSection(**values),  # type: ignore[arg-type]
        data=DataSection(max_duration=2.0, validation_split=0.2),
        samples=SampleSection(every_epochs=None),
        precision="fp32",
    )
    return LoRATrainer(family or SmallFamily(), config)


def factors(folder: Path) -> dict[str, Tensor]:
    found = read_adapter(folder).factors.items()
    return {f"{module}.{side}": getattr(part, side) for module, part in found for side in "ab"}


def assert_same_adapter(one: Path, other: Path) -> None:
    mine, theirs = factors(one), factors(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


class EachStep(TrainingCallback):
    """A checkpoint after each step, and no faster than a killer can hit."""

    def on_step(self, result: StepResult, control: RunControl) -> None:
        control.save_checkpoint()
        time.sleep(0.02)


def train_to_the_end(out: Path, dataset: LatentDataset) -> None:
    torch.set_num_threads(1)
    trainer(out).train(dataset, check=False, callbacks=[EachStep()], resume=True)


def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_where_a_calm_one_does(
    tmp_path: Path, dataset: LatentDataset
):
    calm = trainer(tmp_path / "calm").train(dataset, check=False, callbacks=[EachStep()])
    chance, out = random.Random(3), tmp_path / "killed"
    processes = multiprocessing.get_context("fork")
    deaths, deadline = 0, time.monotonic() + _FINISH_S
    while True:
        assert time.monotonic() < deadline, "the run did not get on between its deaths"
        process = processes.Process(target=train_to_the_end, args=(out, dataset))
        process.start()
        assert process.pid is not None
        # The first ones early, each later one a little later, so that it must end.
        process.join(chance.uniform(0.05, 0.3) * (1 + deaths / 3))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            deaths += 1
            continue
        assert process.exitcode == 0
        break
    assert deaths >= 2
    assert_same_adapter(out / "adapter", calm.adapter)
    assert [path.name for path in (out / "checkpoints").iterdir() if "." in path.name] == []


class Interrupting(SmallFamily):
    """Presses Ctrl-C in the middle of its nth training batch."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        if torch.is_grad_enabled():
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return super().velocity(latents, sigmas, conditioning)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_run_interrupted_between_the_batches_of_a_step_goes_on_in_its_middle(
    tmp_path: Path, dataset: LatentDataset, at: int
):
    calm = trainer(tmp_path / "calm").train(dataset, check=False)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "parts", Interrupting(at)).train(dataset, check=False)
    checkpoint = latest_checkpoint(RunFolder(tmp_path / "parts").checkpoints())
    assert checkpoint is not None
    assert checkpoint.position.batches_done == at % 3
    assert len(checkpoint.position.examples) == at % 3
    resumed = trainer(tmp_path / "parts").train(dataset, resume=True, check=False)
    assert_same_adapter(resumed.adapter, calm.adapter)
