from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import AdapterError, CheckpointError, InputError
from acestep.families.hub import find_checkpoint
from acestep.lora import read_adapter, write_adapter
from acestep.lora.baking import TRANSFORMER_WEIGHTS, bake
from acestep.lora.bases import base_shapes
from acestep.lora.extraction import extract_adapter
from small_adapter import MODULES, nano_adapter


@pytest.fixture
def finetuned(tmp_path: Path) -> Path:
    """nano with an adapter of ranks 2 to 5 in it, in float32 as nano's weights then are."""
    path = write_adapter(tmp_path / "lora", nano_adapter())
    return bake("nano", [(path, 1.0)], tmp_path / "finetuned", dtype="float32").path


def test_an_adapter_that_was_baked_in_comes_out_again(finetuned: Path, tmp_path: Path):
    report = extract_adapter(finetuned, "nano", tmp_path / "out", rank=8)
    assert [module.module for module in report.modules if module.energy_lost > 1e-6] == []
    found, expected = (read_adapter(tmp_path / name, base_shapes("nano")).factors for name in ("out", "lora"))
    assert found.keys() == expected.keys()
    for module in MODULES:
        torch.testing.assert_close(found[module].delta(), expected[module].delta(), rtol=0, atol=1e-4)
    assert report.left_out == ()


def test_a_lower_rank_says_how_much_is_missing(finetuned: Path, tmp_path: Path):
    report = extract_adapter(finetuned, "nano", tmp_path / "out", rank=2)
    expected, found = (read_adapter(tmp_path / name, base_shapes("nano")).factors for name in ("lora", "out"))
    for module in report.modules:
        delta = expected[module.module].delta().double()
        missing = (delta - found[module.module].delta()).square().sum() / delta.square().sum()
        assert module.energy_lost == pytest.approx(float(missing), abs=1e-4)
    assert report.energy_lost > 0.05


def test_auto_finds_the_rank(finetuned: Path, tmp_path: Path):
    report = extract_adapter(finetuned, "nano", tmp_path / "out", rank="auto", dtype="bfloat16")
    assert report.rank <= 5
    assert max(module.energy_lost for module in report.modules) <= 0.01
    assert read_adapter(tmp_path / "out", base_shapes("nano")).report.dtype == torch.bfloat16


def test_what_no_lora_can_hold_is_told(finetuned: Path, tmp_path: Path):
    path = finetuned / TRANSFORMER_WEIGHTS
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".bias"))
    tensors[name] = tensors[name] + 1
    save_file(tensors, path)
    assert extract_adapter(finetuned, "nano", tmp_path / "out", rank=8).left_out == (name,)


def test_equal_and_different_checkpoints_are_refused(finetuned: Path, tmp_path: Path):
    with pytest.raises(AdapterError, match="the same weights"):
        extract_adapter("nano", "nano", tmp_path / "out")
    path = finetuned / TRANSFORMER_WEIGHTS
    whole = load_file(path)
    name = f"{MODULES[0]}.weight"
    save_file({k: v for k, v in whole.items() if k != name}, path)
    with pytest.raises(CheckpointError, match="do not hold the same tensors"):
        extract_adapter(finetuned, "nano", tmp_path / "out")
    save_file(whole | {name: torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"is \[.*\] in .* and \[3, 3\]"):
        extract_adapter(finetuned, "nano", tmp_path / "out")
    save_file(whole | {name: torch.full_like(whole[name], torch.nan)}, path)
    with pytest.raises(CheckpointError, match="not finite"):
        extract_adapter(finetuned, "nano", tmp_path / "out")
    with pytest.raises(InputError, match="rank is 0"):
        extract_adapter(finetuned, "nano", tmp_path / "out", rank=0)
    assert not (tmp_path / "out").exists()
    shutil.rmtree(finetuned)
    assert find_checkpoint("nano").is_dir()
