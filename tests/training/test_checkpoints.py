from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from acestep.errors import TrainingError
from acestep.lora import TrainableAdapter, attach_trainable, read_adapter
from acestep.training import checkpoints
from acestep.training.checkpoints import (
    Position,
    RunIdentity,
    latest_checkpoint,
    optimizer_tensors,
    restore,
    save_checkpoint,
)
from acestep.training.results import ValidationResult

IDENTITY = RunIdentity(
    base_fingerprint="a",
    tracks_sha256="b",
    lora={"rank": 2},
    batch_size=1,
    gradient_accumulation=1,
    seed=0,
    max_duration=60,
    validation_split=0.1,
)


@dataclass
class Run:
    adapter: TrainableAdapter
    optimizer: torch.optim.AdamW

    def step(self) -> None:
        inputs = torch.linspace(-1, 1, 18).view(3, 6)
        self.adapter.network(inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def values(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.adapter.parameters().items()}

    def save(self, path: Path, step: int) -> None:
        position = Position(
            step=step,
            epoch_loss_sum=1.5,
            epoch_examples=3,
            first_validation=ValidationResult(0, 0, 0.5, None, {"a": 0.5}),
            last_validation=None,
            identity=IDENTITY,
        )
        tensors = optimizer_tensors(self.optimizer, self.adapter)
        save_checkpoint(path, position, self.adapter.adapter(), self.adapter.parameters(), tensors)


def make_run() -> Run:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    adapter = attach_trainable(network, ["0", "1"], rank=2, alpha=3, generator=torch.Generator().manual_seed(1))
    return Run(adapter, torch.optim.AdamW(adapter.parameters().values(), lr=0.05))


def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path: Path):
    run = make_run()
    for _ in range(3):
        run.step()
    run.save(tmp_path / "epoch-0001", 3)
    run.step()
    expected = run.values()
    again = make_run()
    checkpoint = latest_checkpoint([tmp_path / "epoch-0001"])
    assert checkpoint is not None
    assert checkpoint.position.first_validation == ValidationResult(0, 0, 0.5, None, {"a": 0.5})
    restore(checkpoint, again.optimizer, again.adapter)
    again.step()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.values().items())


def test_a_checkpoint_holds_an_adapter_that_anyone_can_read(tmp_path: Path):
    run = make_run()
    run.step()
    run.save(tmp_path / "epoch-0001", 1)
    found = read_adapter(tmp_path / "epoch-0001" / "adapter")
    values = run.values()
    torch.testing.assert_close(found.factors["0"].b, values["0.lora_B.weight"] * 1.5)


def test_the_latest_is_the_one_with_most_steps_and_not_the_last_by_name(tmp_path: Path):
    run = make_run()
    run.step()
    for name, step in (("epoch-0002", 10), ("epoch-0001-step-000012", 12)):
        run.save(tmp_path / name, step)
    checkpoint = latest_checkpoint(sorted(tmp_path.iterdir()))
    assert checkpoint is not None
    assert checkpoint.position.step == 12
    assert latest_checkpoint([]) is None


def test_a_disk_that_fills_up_leaves_no_half_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = make_run()
    run.step()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        run.save(tmp_path / "epoch-0001", 1)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    run = make_run()
    run.step()
    run.save(tmp_path / "epoch-0001", 1)
    (tmp_path / "epoch-0001" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="epoch-0001 cannot be read"):
        latest_checkpoint([tmp_path / "epoch-0001"])


def test_what_differs_is_said_by_name():
    other = IDENTITY.model_copy(update={"seed": 3, "lora": {"rank": 9}})
    assert IDENTITY.differences(IDENTITY) == []
    assert IDENTITY.differences(other) == ["lora is {'rank': 2}, was {'rank': 9}", "seed is 0, was 3"]
