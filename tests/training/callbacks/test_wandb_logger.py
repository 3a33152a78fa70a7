"""With wandb itself, offline: its own service process writes the run, whose file is read back."""

import builtins
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acestep.errors import ConfigError
from acestep.training.callbacks import WandbCallback
from made_results import RememberingControl, run_info, samples_result, step_result, summary, validation_result


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    library = pytest.importorskip("wandb")
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield library
    library.teardown()


def train(folder: Path, callback: WandbCallback, *, start: int, steps: range) -> RememberingControl:
    control = RememberingControl()
    callback.on_start(run_info(folder, step=start), control)
    for step in steps:
        callback.on_step(step_result(step, 1 / step), control)
    callback.on_validation(validation_result(1, [0.5, 0.7], step=steps[-1]), control)
    callback.on_end(summary(folder))
    return control


def history(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """(run id, row) of every row that wandb stored under the folder, in the order of steps."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    # Its service writes behind our back; it has written all when it is gone.
    wandb.teardown()
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        run_id = ""
        for data in stored_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                run_id = record.run.run_id
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                rows.append((run_id, {key: json.loads(value) for key, value in items.items()}))
    return sorted(rows, key=lambda row: row[1]["_step"])


def stored_records(data: bytes) -> Iterator[bytes]:
    """A wandb file is a header of 7 bytes and LevelDB's log format: blocks of 32 KiB, chunks of crc, length, type."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) < 7 and left:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or a last chunk
            yield parts
            parts = b""


def test_an_offline_run_holds_every_number_and_a_resumed_one_is_the_same_run(wandb: Any, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("base_model: nano\n")
    first = WandbCallback(project="acestep-lora", mode="offline")
    assert train(tmp_path, first, start=0, steps=range(1, 4)).notes == []
    resumed = WandbCallback(project="acestep-lora", mode="offline")
    assert resumed.run_id != first.run_id
    resumed.load_state(json.loads(json.dumps(first.state())))
    assert train(tmp_path, resumed, start=3, steps=range(4, 6)).notes == []
    rows = history(tmp_path)
    assert {run_id for run_id, _ in rows} == {first.run_id}
    assert [(row["_step"], row["train/loss"]) for _, row in rows] == [(n, 1 / n) for n in range(1, 6)]
    assert rows[-1][1]["val/loss"] == pytest.approx(0.6)


def test_a_service_out_of_reach_leaves_the_run_on_this_machine(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    start = wandb.init

    def unreachable(**options: Any) -> Any:
        if options["mode"] != "offline":
            raise wandb.errors.CommError("no route to host")
        return start(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    assert train(tmp_path, WandbCallback(), start=0, steps=range(1, 3)).notes == []
    assert len(history(tmp_path)) == 2


def test_songs_that_are_gone_do_not_end_the_run(wandb: Any, tmp_path: Path):
    callback, control = WandbCallback(mode="offline"), RememberingControl()
    callback.on_start(run_info(tmp_path), control)
    callback.on_samples(samples_result(tmp_path), control)
    callback.on_step(step_result(11), control)
    callback.on_failure(ValueError())
    assert [event for event, _ in control.notes] == ["logger_failed"]


def test_disabled_it_takes_everything_and_writes_nothing(wandb: Any, tmp_path: Path):
    assert train(tmp_path, WandbCallback(mode="disabled"), start=0, steps=range(1, 3)).notes == []
    assert history(tmp_path) == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name == "wandb":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"acesteps\[wandb\]"):
        WandbCallback(project="x")
