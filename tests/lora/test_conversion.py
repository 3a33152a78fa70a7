from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import AdapterError, CheckpointError, InputError
from acestep.lora import Adapter, Factors, read_adapter, write_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.conversion import convert_adapter, verify_adapters, verify_round_trip
from acestep.lora.formats import FORMATS
from acestep.lora.locating import WEIGHTS_FILE
from small_adapter import MODULES, nano_adapter
from small_disk import files_of_at_most


def target_of(name: str) -> str:
    return "out" if FORMATS[name].config else "out.safetensors"


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_any_format_to_any_other_keeps_every_change_and_the_record(tmp_path: Path, first: str, second: str):
    adapter = nano_adapter()
    source = write_adapter(tmp_path / "source", adapter)
    between = convert_adapter(source, tmp_path / "between", first).path
    there = convert_adapter(between, tmp_path / target_of(second), second).path
    found = read_adapter(there, base_shapes("nano"))
    verified = verify_adapters(adapter, found)
    assert (verified.largest, verified.missing) == (0.0, ())
    assert found.metadata == adapter.metadata


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("dora", [False, True])
def test_a_round_trip_is_verified_and_leaves_nothing_behind(tmp_path: Path, to: str, dora: bool):
    source = write_adapter(tmp_path / "source", nano_adapter(dora=dora))
    assert verify_round_trip(source, to, folder=tmp_path).largest == 0
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_difference_is_found_where_it_is():
    adapter = nano_adapter()
    other = dict(adapter.factors)
    other[MODULES[1]] = replace(other[MODULES[1]], b=other[MODULES[1]].b.clone())
    other[MODULES[1]].b[3, 1] += 0.5
    del other[MODULES[0]]
    verified = verify_adapters(adapter, Adapter(other))
    assert verified.module == MODULES[1]
    assert verified.largest == pytest.approx(0.5 * float(adapter.factors[MODULES[1]].a[1].abs().max()), rel=1e-5)
    assert verified.missing == (MODULES[0],)


def test_adapters_that_cannot_be_compared_are_told():
    one = Adapter({"a": Factors(torch.ones(1, 2), torch.ones(3, 1))})
    with pytest.raises(AdapterError, match="no module in common"):
        verify_adapters(one, Adapter({"b": one.factors["a"]}))
    with pytest.raises(AdapterError, match="other ways"):
        verify_adapters(one, Adapter({"a": replace(one.factors["a"], magnitude=torch.ones(3))}))


def test_half_precision_is_kept_where_the_scale_fits_into_it_and_widened_where_not(tmp_path: Path):
    adapter = nano_adapter(dtype=torch.bfloat16)
    for alpha, expected in ((4.0, torch.bfloat16), (3.0, torch.float32)):
        tensors = {}
        for module, factors in adapter.factors.items():
            padded = factors.padded(5)
            name = "lora_unet_" + module.replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = padded.a.bfloat16()
            tensors[f"{name}.lora_up.weight"] = padded.b.bfloat16()
            tensors[f"{name}.alpha"] = torch.tensor(alpha * 5 / 2)
        save_file(tensors, tmp_path / "kohya.safetensors")
        converted = convert_adapter(tmp_path / "kohya.safetensors", tmp_path / f"out{alpha}", "acestep")
        assert converted.dtype == expected
        written = load_file(tmp_path / f"out{alpha}" / WEIGHTS_FILE)
        assert {tensor.dtype for tensor in written.values()} == {expected}
        found = read_adapter(converted.path, base_shapes("nano"))
        for module, factors in adapter.factors.items():
            torch.testing.assert_close(found.factors[module].delta(), alpha / 2 * factors.delta())


def test_what_is_there_is_kept_unless_forced_and_nothing_but_an_adapter_is_replaced(tmp_path: Path):
    source = write_adapter(tmp_path / "source", nano_adapter())
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "one.wav").touch()
    for target in (source, tmp_path / "songs"):
        with pytest.raises(InputError, match="there already"):
            convert_adapter(source, target, "peft")
    with pytest.raises(InputError, match="no adapter"):
        convert_adapter(source, tmp_path / "songs", "peft", force=True)
    collection = tmp_path / "songs"
    for name in ("mine.safetensors", "other.safetensors"):
        (collection / name).touch()
    with pytest.raises(InputError, match="no adapter"):
        convert_adapter(source, collection, "peft", force=True)
    file = tmp_path / "x.safetensors"
    for _ in range(2):
        convert_adapter(source, file, "kohya", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["songs", "source", "x.safetensors"]


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path):
    source = write_adapter(tmp_path / "source", nano_adapter())
    for target in ("a.safetensors", "folder"):
        with files_of_at_most(5000), pytest.raises(CheckpointError, match="could not be written"):
            convert_adapter(source, tmp_path / target, "comfyui")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_peft_gets_a_folder_and_says_so(tmp_path: Path):
    source = write_adapter(tmp_path / "source", nano_adapter())
    with pytest.raises(InputError, match="folder"):
        convert_adapter(source, tmp_path / "x.safetensors", "peft")


def test_a_flattened_file_of_an_unknown_base_needs_the_base_named(tmp_path: Path):
    tensors = {"lora_unet_a_b.lora_down.weight": torch.ones(1, 3), "lora_unet_a_b.lora_up.weight": torch.ones(2, 1)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="another base model"):
        convert_adapter(tmp_path / "x.safetensors", tmp_path / "out", "acestep")


def test_a_lokr_becomes_a_lora_and_a_lower_rank_tells_its_loss(tmp_path: Path):
    name = "lycoris_transformer_blocks_0_attn_to_q"
    save_file(
        {f"{name}.lokr_w1": torch.randn(4, 4), f"{name}.lokr_w2": torch.randn(64, 64)}, tmp_path / "x.safetensors"
    )
    whole = convert_adapter(tmp_path / "x.safetensors", tmp_path / "whole", "acestep")
    assert whole.adapter.report.lost == {}
    cut = convert_adapter(tmp_path / "x.safetensors", tmp_path / "cut", "acestep", rank=16)
    (module, lost), *_ = cut.adapter.report.lost.items()
    found = read_adapter(cut.path).factors[module].delta()
    exact = read_adapter(whole.path).factors[module].delta()
    assert float((found - exact).norm() / exact.norm()) == pytest.approx(lost, rel=1e-4)
