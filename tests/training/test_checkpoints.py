from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from acestep.errors import CheckpointError, TrainingError
from acestep.lora import Adapter, Factors, formats, read_adapter
from acestep.training import checkpoints
from acestep.training.checkpoints import Position, RunIdentity, latest_checkpoint, save_checkpoint
from acestep.training.results import ExampleLoss, ValidationResult

IDENTITY = RunIdentity(base_fingerprint="a", tracks={"one": "1", "two": "2"}, settings={"lora.rank": 2, "seed": 0})
TENSORS = {
    "optimization": {"parameter/x": torch.arange(6.0).view(2, 3), "optimizer/x/step": torch.tensor(3.0)},
    "gradient": {"x": torch.full((2, 3), 0.1)},
    "best": {},
}


def adapter() -> Adapter:
    return Adapter({"layer": Factors(torch.ones(2, 6), torch.full((4, 2), 0.5))})


def position(step: int, batches_done: int = 0) -> Position:
    return Position(
        step=step,
        examples=(ExampleLoss("a", 0.25, 0.75),) * batches_done,
        batches_done=batches_done,
        batch_size=2,
        epoch_loss_sum=1.5,
        epoch_examples=3,
        first_validation=ValidationResult(0, 0, 0.5, None, {"a": 0.5}),
        last_validation=None,
        best_step=None,
        optimization={"optimizer": "adamw"},
        callbacks={"EarlyStoppingCallback": {"bad": 2}},
        identity=IDENTITY,
    )


def save(path: Path, step: int, batches_done: int = 0, tensors: dict[str, dict[str, Tensor]] = TENSORS) -> None:
    save_checkpoint(path, position(step, batches_done), adapter(), tensors)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path):
    save(tmp_path / "epoch-0001", 3, 1)
    found = latest_checkpoint([tmp_path / "epoch-0001"])
    assert found is not None
    assert found.position == position(3, 1)
    for kind, named in TENSORS.items():
        assert found.below(kind).keys() == named.keys()
        assert all(torch.equal(tensor, named[name]) for name, tensor in found.below(kind).items())


def test_a_checkpoint_holds_an_adapter_that_anyone_can_read(tmp_path: Path):
    save(tmp_path / "epoch-0001", 1)
    found = read_adapter(tmp_path / "epoch-0001" / "adapter")
    torch.testing.assert_close(found.factors["layer"].delta(), torch.ones(4, 6))


def test_the_latest_is_the_one_with_most_behind_it_and_not_the_last_by_name(tmp_path: Path):
    for name, step, batches in (("epoch-0002", 10, 0), ("epoch-0001-step-000012", 12, 1), ("epoch-0001-x", 12, 0)):
        save(tmp_path / name, step, batches)
    checkpoint = latest_checkpoint(sorted(tmp_path.iterdir()))
    assert checkpoint is not None
    assert (checkpoint.position.step, checkpoint.position.batches_done) == (12, 1)
    assert latest_checkpoint([]) is None


@pytest.mark.parametrize(
    ("writer", "error"),
    [
        ((checkpoints, "save_file"), OSError),
        ((checkpoints, "save_file"), SafetensorError),
        ((formats, "write_tensors"), CheckpointError),
    ],
)
def test_a_disk_that_fills_up_is_an_os_error_and_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: tuple[ModuleType, str], error: type[Exception]
):
    def full(*_: object, **__: object) -> None:
        raise error("no space left on device")

    monkeypatch.setattr(*writer, full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path / "epoch-0001", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content"), [("state.json", b"{"), ("state.safetensors", b"\x08"), ("state.json", None)]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: bytes | None
):
    save(tmp_path / "epoch-0001", 1)
    save(tmp_path / "epoch-0002", 2)
    damaged = tmp_path / "epoch-0002" / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    checkpoint = latest_checkpoint(sorted(tmp_path.iterdir()))
    assert checkpoint is not None
    assert checkpoint.position.step == 1
    assert "epoch-0002 cannot be read" in caplog.text


def test_where_all_are_damaged_the_run_is_not_begun_anew(tmp_path: Path):
    save(tmp_path / "epoch-0001", 1)
    (tmp_path / "epoch-0001" / "state.json").write_text("{}")
    with pytest.raises(TrainingError, match="epoch-0001 cannot be read"):
        latest_checkpoint([tmp_path / "epoch-0001"])


def test_what_differs_is_said_by_name():
    assert IDENTITY.differences(IDENTITY) == []
    other = RunIdentity(
        base_fingerprint="b", tracks={"two": "changed", "three": "3"}, settings={"lora.rank": 9, "seed": 0}
    )
    assert IDENTITY.differences(other) == [
        "lora.rank is 2, was 9",
        "the base model is another (fingerprint a, was b)",
        "tracks added: one",
        "tracks changed: two",
        "tracks removed: three",
    ]
