from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from acestep.errors import AceStepError, AdapterError, CheckpointError, InputError
from acestep.families.hub import find_checkpoint
from acestep.families.v1 import load_transformer
from acestep.lora import Adapter, AdapterMetadata, Factors, attach, read_adapter, write_adapter
from acestep.lora.baking import HEADER_KEY, TRANSFORMER_WEIGHTS, bake
from acestep.lora.bases import base_shapes
from acestep.lora.tensor_file import open_tensor_file
from small_adapter import MODULES, nano_adapter


def quiet(*, seed: int = 1, dora: bool = False) -> Adapter:
    """As small as a trained one."""
    made = nano_adapter(seed=seed)
    factors = {}
    for module, f in made.factors.items():
        scaled = f.scaled(0.02)
        factors[module] = Factors(scaled.a, scaled.b, 0.5 + torch.rand(len(f.b)) if dora else None)
    return Adapter(factors, made.metadata)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_adapter(tmp_path / "one", quiet(seed=1)), write_adapter(tmp_path / "dora", quiet(seed=2, dora=True))


def test_a_baked_checkpoint_computes_what_attached_adapters_compute(pair: tuple[Path, Path], tmp_path: Path):
    report = bake("nano", [(pair[0], 1.0), (pair[1], 0.5)], tmp_path / "baked", dtype="float32")
    assert report.modules == len(MODULES)
    assert report.rounding < 1e-4
    baked, base = load_transformer(tmp_path / "baked"), load_transformer(find_checkpoint("nano"), dtype=torch.float32)
    for path, weight in zip(pair, (1.0, 0.5), strict=True):
        attach(base, read_adapter(path, base_shapes("nano")), name=path.name, weight=weight)
    for module in MODULES:
        own, adapted = baked.get_submodule(module), base.get_submodule(module)
        inputs = own.weight.shape[1]
        x = torch.randn(2, inputs, 5) if own.weight.dim() == 3 else torch.randn(2, inputs)
        with torch.no_grad():
            torch.testing.assert_close(own(x), adapted(x), rtol=1e-4, atol=1e-4)


def test_all_other_tensors_and_files_are_the_base_s(pair: tuple[Path, Path], tmp_path: Path):
    folder = find_checkpoint("nano")
    bake("nano", [(pair[0], 1.0)], tmp_path / "baked")
    before, after = (open_tensor_file(place / TRANSFORMER_WEIGHTS) for place in (folder, tmp_path / "baked"))
    changed = {f"{module}.weight" for module in MODULES}
    old, new = before.read(), after.read()
    assert {name for name in old if not torch.equal(old[name], new[name])} == changed
    assert {name: tensor.dtype for name, tensor in new.items()} == {name: tensor.dtype for name, tensor in old.items()}
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "baked") for path in (tmp_path / "baked").rglob("*") if path.is_file()} == files
    assert "- one, weight 1" in (tmp_path / "baked" / "README.md").read_text()
    for path in files - {TRANSFORMER_WEIGHTS, Path("README.md")}:
        assert (tmp_path / "baked" / path).read_bytes() == (folder / path).read_bytes()
    # What a person may edit is a file of its own.
    assert not (tmp_path / "baked" / "family.json").samefile(folder / "family.json")


def test_what_is_in_a_baked_checkpoint_stands_in_its_header(pair: tuple[Path, Path], tmp_path: Path):
    bake("nano", [(pair[0], 0.7)], tmp_path / "baked")
    with safe_open(tmp_path / "baked" / TRANSFORMER_WEIGHTS, "pt") as file:
        parents = json.loads(file.metadata()[HEADER_KEY])
    assert [(parent["name"], parent["weight"]) for parent in parents] == [("one", 0.7)]


def test_a_narrow_dtype_says_what_it_rounds_away(pair: tuple[Path, Path], tmp_path: Path):
    rough = bake("nano", [(pair[0], 0.01)], tmp_path / "rough", dtype="bfloat16")
    assert 0.01 < rough.rounding < 2


def test_a_disk_without_links_gets_copies(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert bake("nano", [(pair[0], 1.0)], tmp_path / "baked").linked == 0
    assert (tmp_path / "baked" / "umt5-base" / "model.safetensors").is_file()


@pytest.mark.parametrize("failing", ["write", "room", "interrupt"])
def test_what_cannot_be_finished_leaves_nothing_behind(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    def progress(done: int, _: int) -> None:
        if failing == "interrupt" and done == 3:
            raise KeyboardInterrupt
        if failing == "write" and done == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "room":
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(KeyboardInterrupt if failing == "interrupt" else CheckpointError):
        bake("nano", [(pair[0], 1.0)], tmp_path / "baked", progress=progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dora", "one"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loras": []}, "no adapter"),
        ({"weight": math.nan}, "no number up to"),
        ({"dtype": "int4"}, "no dtype"),
        ({"base": "nowhere"}, "no folder"),
        ({"weight": 1e38}, "no number up to"),
        ({"weight": 1e6}, "no longer finite"),
    ],
)
def test_what_cannot_be_is_refused(pair: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], message: str):
    loras = change.get("loras", [(pair[0], change.get("weight", 1.0))])
    with pytest.raises(AceStepError, match=message):
        bake(change.get("base", "nano"), loras, tmp_path / "baked", dtype=change.get("dtype"))
    assert not (tmp_path / "baked").exists()


def test_an_adapter_of_another_family_is_refused_by_name(tmp_path: Path):
    made = quiet()
    other = write_adapter(tmp_path / "other", Adapter(made.factors, AdapterMetadata(family="v1.5")))
    with pytest.raises(AdapterError, match=r"other was made for v1\.5, and nano is nano"):
        bake("nano", [(other, 1.0)], tmp_path / "baked")


def test_a_folder_that_is_there_is_only_replaced_when_told_and_when_it_is_a_checkpoint(
    pair: tuple[Path, Path], tmp_path: Path
):
    bake("nano", [(pair[0], 1.0)], tmp_path / "baked")
    with pytest.raises(InputError, match="is there already"):
        bake("nano", [(pair[0], 1.0)], tmp_path / "baked")
    bake("nano", [(pair[0], 0.5)], tmp_path / "baked", overwrite=True)
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "song.txt").write_text("mine")
    with pytest.raises(InputError, match="no checkpoint"):
        bake("nano", [(pair[0], 1.0)], tmp_path / "songs", overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        bake("nano", [(pair[0], 1.0)], tmp_path / "songs" / "song.txt")
    with pytest.raises(InputError, match="lie in each other"):
        bake(tmp_path / "baked", [(pair[0], 1.0)], tmp_path / "baked" / "again")
