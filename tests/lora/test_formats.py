"""What each program does with its own format, written out as arithmetic, hears what the adapter means."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.errors import AdapterError, CheckpointError, InputError
from acestep.lora import Adapter, Factors, read_adapter
from acestep.lora.formats import FORMATS, find_format, save_adapter_file
from small_disk import files_of_at_most

SHAPES = {"blocks.0.attn.to_q": (6, 5), "blocks.0.to_out.0": (5, 6), "ff.conv": (4, 6, 1)}
PREFIXES = {"acestep": "", "peft": "base_model.model.", "diffusers": "transformer.", "comfyui": "diffusion_model."}


def adapter_of(*, dora: bool = False) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    factors = {}
    for rank, (module, (out, into, *kernel)) in enumerate(SHAPES.items(), start=2):
        a = torch.randn(rank, into, *kernel, generator=generator)
        b = torch.randn(out, rank, *kernel, generator=generator)
        factors[module] = Factors(a, b, torch.rand(out, generator=generator) + 0.5 if dora else None)
    return Adapter(factors)


def as_comfyui_does(tensors: dict[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    """alpha / rank times up @ down, 1.0 where there is no alpha."""
    changes = {}
    for module, shape in SHAPES.items():
        key = name(module)
        down = tensors.get(f"{key}.lora_down.weight", tensors.get(f"{key}.lora_A.weight"))
        up = tensors.get(f"{key}.lora_up.weight", tensors.get(f"{key}.lora_B.weight"))
        assert down is not None
        assert up is not None
        scale = tensors[f"{key}.alpha"].item() / down.shape[0] if f"{key}.alpha" in tensors else 1.0
        changes[module] = scale * (up.flatten(1) @ down.flatten(1)).reshape(shape)
    return changes


@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_that_knows_only_alpha_over_rank_hears_the_adapter(tmp_path: Path, name: str):
    adapter = adapter_of()
    save_adapter_file(tmp_path / "x.safetensors", adapter, FORMATS[name])
    keys = (lambda m: "lora_unet_" + m.replace(".", "_")) if name == "kohya" else (lambda m: PREFIXES[name] + m)
    changes = as_comfyui_does(load_file(tmp_path / "x.safetensors"), keys)
    for module, factors in adapter.factors.items():
        torch.testing.assert_close(changes[module], factors.delta())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dora", [False, True])
def test_every_format_reads_back_as_it_was(tmp_path: Path, name: str, dora: bool):
    adapter = adapter_of(dora=dora)
    save_adapter_file(tmp_path / "x.safetensors", adapter, FORMATS[name])
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    assert found.factors.keys() == adapter.factors.keys()
    for module, factors in adapter.factors.items():
        torch.testing.assert_close(
            found.factors[module].delta(torch.ones(SHAPES[module])), factors.delta(torch.ones(SHAPES[module]))
        )
    assert set(found.report.scales.values()) == {1.0}
    assert found.report.kinds == ("DoRA" if dora else "LoRA",)


@pytest.mark.parametrize("name", FORMATS)
def test_all_modules_have_one_rank_and_alphas_say_it(tmp_path: Path, name: str):
    save_adapter_file(tmp_path / "x.safetensors", adapter_of(), FORMATS[name])
    tensors = load_file(tmp_path / "x.safetensors")
    assert {tensor.shape[0] for key, tensor in tensors.items() if ".lora_A" in key or ".lora_down" in key} == {4}
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith(".alpha")} <= {4.0}


def test_the_diffusers_header_is_behind_the_components_name_and_gives_scale_one(tmp_path: Path):
    save_adapter_file(tmp_path / "x.safetensors", adapter_of(), FORMATS["diffusers"])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config["transformer.r"] == config["transformer.lora_alpha"] == 4


def test_two_modules_of_one_flattened_name_are_refused_and_not_mixed_up(tmp_path: Path):
    factors = Factors(torch.ones(1, 2), torch.ones(2, 1))
    with pytest.raises(AdapterError, match="both be called"):
        save_adapter_file(tmp_path / "x", Adapter({"a.b_c": factors, "a_b.c": factors}), FORMATS["kohya"])


@pytest.mark.parametrize("name", FORMATS)
def test_equal_adapters_are_equal_files(tmp_path: Path, name: str):
    for file in ("one", "other"):
        save_adapter_file(tmp_path / file, adapter_of(), FORMATS[name], dtype=torch.bfloat16)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_an_unknown_format_lists_what_there_is():
    with pytest.raises(InputError, match="acestep, peft, diffusers, comfyui, kohya"):
        find_format("a1111")


def test_a_full_disk_is_an_error_in_words(tmp_path: Path):
    with files_of_at_most(100), pytest.raises(CheckpointError, match="could not be written"):
        save_adapter_file(tmp_path / "x.safetensors", adapter_of(), FORMATS["kohya"])


LYCORIS = {
    "lycoris_blocks_0_attn_to_q.lokr_w1": torch.randn(2, 1),
    "lycoris_blocks_0_attn_to_q.lokr_w2_a": torch.randn(3, 2),
    "lycoris_blocks_0_attn_to_q.lokr_w2_b": torch.randn(2, 5),
    "lycoris_blocks_0_attn_to_q.alpha": torch.tensor(1.0),
    "lycoris_blocks_0_to_out_0.hada_w1_a": torch.randn(5, 2),
    "lycoris_blocks_0_to_out_0.hada_w1_b": torch.randn(2, 6),
    "lycoris_blocks_0_to_out_0.hada_w2_a": torch.randn(5, 2),
    "lycoris_blocks_0_to_out_0.hada_w2_b": torch.randn(2, 6),
    "lycoris_blocks_0_to_out_0.alpha": torch.tensor(8.0),
    "lycoris_ff_conv.lokr_w1": torch.randn(2, 2),
    "lycoris_ff_conv.lokr_w2": torch.randn(2, 3, 1),
    "lycoris_ff_conv.alpha": torch.tensor(123.0),  # LyCORIS leaves it unused where both parts are whole
}


def test_a_lycoris_file_reads_with_each_kinds_own_scale(tmp_path: Path):
    save_file(LYCORIS, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES)
    parts = {key.removeprefix("lycoris_").partition(".")[::2]: tensor for key, tensor in LYCORIS.items()}
    q, out, conv = "blocks_0_attn_to_q", "blocks_0_to_out_0", "ff_conv"
    w2 = parts[q, "lokr_w2_a"] @ parts[q, "lokr_w2_b"]
    torch.testing.assert_close(found.factors["blocks.0.attn.to_q"].delta(), 0.5 * torch.kron(parts[q, "lokr_w1"], w2))
    hada = [parts[out, f"hada_w{n}_a"] @ parts[out, f"hada_w{n}_b"] for n in (1, 2)]
    torch.testing.assert_close(found.factors["blocks.0.to_out.0"].delta(), 4.0 * hada[0] * hada[1])
    torch.testing.assert_close(
        found.factors["ff.conv"].delta(), torch.kron(parts[conv, "lokr_w1"][..., None], parts[conv, "lokr_w2"])
    )
    assert set(found.report.kinds) == {"LoKr", "LoHa"}
    assert found.report.unmatched == ()


def test_a_lower_rank_is_reported_with_its_loss(tmp_path: Path):
    save_file(LYCORIS, tmp_path / "x.safetensors")
    found = read_adapter(tmp_path / "x.safetensors", SHAPES, rank=1)
    assert found.rank == 1
    assert found.report.lost.keys() <= found.factors.keys()
    assert all(0 < lost < 1 for lost in found.report.lost.values())


def test_an_alpha_of_several_numbers_is_refused(tmp_path: Path):
    tensors = {"ff.conv.lora_A.weight": torch.ones(1, 6, 1), "ff.conv.lora_B.weight": torch.ones(4, 1, 1)}
    save_file(tensors | {"ff.conv.alpha": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"alpha of ff\.conv has 2"):
        read_adapter(tmp_path / "x.safetensors", SHAPES)


def test_a_mixture_of_dora_and_lora_is_written_by_no_format(tmp_path: Path):
    adapter = adapter_of(dora=True)
    mixed = replace(adapter, factors={**adapter.factors, "ff.conv": adapter_of().factors["ff.conv"]})
    for chosen in FORMATS.values():
        with pytest.raises(AdapterError, match="two files"):
            save_adapter_file(tmp_path / "x", mixed, chosen)
