from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from acestep.families.hub import V1_FILES, V1_HUB_ID
from acestep.training.planning import machine
from acestep.training.planning.machine import V1_BYTES, Weights, look_at_machine


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "hub_cache", lambda: tmp_path / "hub")
    monkeypatch.setenv("ACESTEP_CACHE", str(tmp_path / "ours"))
    return tmp_path / "hub"


def put(hub: Path, hub_id: str, files: tuple[str, ...], *, commit: str = "abc", is_main: bool = True) -> Path:
    folder = hub / f"models--{hub_id.replace('/', '--')}"
    for name in files:
        path = folder / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    if is_main:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def weights_of(name: str) -> Weights:
    return next(weights for weights in look_at_machine().weights if weights.name == name)


def test_this_machine_is_looked_at_and_is_json(hub: Path):
    found = look_at_machine(output_dir=hub / "not" / "yet" / "ünïcode")
    assert json.loads(json.dumps(asdict(found)))["cpus"] >= 1
    assert 0 < found.memory_available_bytes <= found.memory_bytes
    assert found.libraries["torch"]
    assert found.is_offline
    assert all(disk.free_bytes > 0 for disk in found.disks)
    assert not hub.exists()


def test_nano_is_always_here(hub: Path):
    assert weights_of("nano").state == "complete"


def test_a_whole_checkpoint_in_the_hubs_cache_is_complete(hub: Path):
    where = put(hub, V1_HUB_ID, V1_FILES)
    found = weights_of(V1_HUB_ID)
    assert (found.state, found.where, found.bytes_here, found.missing) == ("complete", str(where), 100, ())


def test_a_download_that_broke_off_is_partial_and_names_what_it_lacks(hub: Path):
    where = put(hub, V1_HUB_ID, V1_FILES[:3])
    (where / V1_FILES[3]).parent.mkdir(parents=True, exist_ok=True)
    (where / V1_FILES[3]).symlink_to(hub / "gone")
    found = weights_of(V1_HUB_ID)
    assert (found.state, found.missing) == ("partial", V1_FILES[3:])
    assert found.bytes_missing == V1_BYTES - 30


def test_nothing_in_the_cache_is_absent(hub: Path):
    found = weights_of(V1_HUB_ID)
    assert (found.state, found.bytes_missing) == ("absent", V1_BYTES)


def test_a_snapshot_without_a_branch_is_found(hub: Path):
    put(hub, V1_HUB_ID, V1_FILES, is_main=False)
    assert weights_of(V1_HUB_ID).state == "complete"


def test_a_branch_that_points_nowhere_is_no_snapshot(hub: Path):
    (hub / "models--m-a-p--MERT-v1-330M" / "refs").mkdir(parents=True)
    (hub / "models--m-a-p--MERT-v1-330M" / "refs" / "main").write_text("gone\n")
    assert weights_of("m-a-p/MERT-v1-330M").state == "absent"


@pytest.mark.parametrize(
    ("files", "state", "missing"),
    [
        (("config.json", "model.safetensors"), "complete", ()),
        (("config.json", "pytorch_model.bin"), "partial", ("model.safetensors",)),
    ],
)
def test_a_listener_is_here_when_training_can_read_it(hub: Path, files: tuple[str, ...], state: str, missing: object):
    put(hub, "utter-project/mHuBERT-147", files)
    found = weights_of("utter-project/mHuBERT-147")
    assert (found.state, found.missing) == (state, missing)


def test_a_folder_that_cannot_be_written_is_told(hub: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert not any(disk.is_writable for disk in look_at_machine().disks)
