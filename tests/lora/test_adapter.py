import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from acestep.errors import AdapterError, CheckpointError, MissingWeightsError
from acestep.lora import (
    Adapter,
    AdapterMetadata,
    Factors,
    Parent,
    TrainedWith,
    attach,
    module_shapes,
    read_adapter,
    write_adapter,
)
from acestep.lora.bases import base_shapes
from acestep.lora.locating import WEIGHTS_FILE
from small_adapter import nano_adapter

METADATA = AdapterMetadata(
    trained=TrainedWith(rank=3, alpha=5.0),
    family="v1",
    base_model="ACE-Step/ACE-Step-v1-3.5B",
    base_fingerprint="abc",
    training_config_sha256="def",
    recommended_strength=0.8,
    parents=(Parent(sha256="123", name="vocal", weight=0.7),),
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 4)
        self.ff = nn.Sequential(nn.Conv1d(4, 5, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, 6) -> (batch, 5, frames)"""
        convolved: Tensor = self.ff(self.to_q(x).transpose(1, 2))
        return convolved


def small_adapter() -> Adapter:
    generator = torch.Generator().manual_seed(1)
    linear = Factors(torch.randn(3, 6, generator=generator), torch.randn(4, 3, generator=generator))
    conv = Factors(torch.randn(2, 4, 3, generator=generator), torch.randn(5, 2, 1, generator=generator))
    return Adapter({"to_q": linear, "ff.0": conv}, METADATA)


def as_official(adapter: Adapter) -> dict[str, Tensor]:
    named = {f"{module}.lora_A.weight": factors.a for module, factors in adapter.factors.items()}
    return named | {f"{module}.lora_B.weight": factors.b for module, factors in adapter.factors.items()}


def assert_same_deltas(found: Adapter, expected: Adapter, scale: float = 1.0) -> None:
    assert set(found.factors) == set(expected.factors)
    for module, factors in expected.factors.items():
        torch.testing.assert_close(found.factors[module].delta(), scale * factors.delta())


def test_a_written_folder_reads_back_with_its_deltas_and_its_record(tmp_path: Path):
    adapter = small_adapter()
    folder = write_adapter(tmp_path / "mine", adapter)
    found = read_adapter(folder, module_shapes(Small()))
    assert_same_deltas(found, adapter)
    assert found.metadata == METADATA


def test_a_written_file_has_official_names_one_rank_and_alpha_equal_to_it(tmp_path: Path):
    folder = write_adapter(tmp_path / "mine", small_adapter())
    tensors = load_file(folder / WEIGHTS_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "to_q.lora_A.weight": (3, 6),
        "to_q.lora_B.weight": (4, 3),
        "ff.0.lora_A.weight": (3, 4, 3),
        "ff.0.lora_B.weight": (5, 3, 1),
    }
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        described = json.loads(file.metadata()["lora_adapter_metadata"])
    config = json.loads((folder / "adapter_config.json").read_text())
    assert described == config
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 3, {})


def test_peft_reading_the_folder_computes_what_we_compute(tmp_path: Path):
    torch.manual_seed(0)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    folder = write_adapter(tmp_path / "mine", small_adapter())
    attach(ours, read_adapter(folder, module_shapes(ours)), name="mine")
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), theirs)
    loaded = set_peft_model_state_dict(theirs, load_file(folder / WEIGHTS_FILE))
    assert not loaded.unexpected_keys
    x = torch.randn(2, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def dora_adapter() -> Adapter:
    factors = {
        module: replace(found, magnitude=torch.rand(found.b.shape[0]) + 0.5)
        for module, found in small_adapter().factors.items()
    }
    return Adapter(factors, METADATA)


def test_peft_reading_a_dora_folder_computes_what_we_compute(tmp_path: Path):
    torch.manual_seed(0)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    folder = write_adapter(tmp_path / "mine", dora_adapter())
    attach(ours, read_adapter(folder, module_shapes(ours)), name="mine")
    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), theirs)
    loaded = set_peft_model_state_dict(theirs, load_file(folder / WEIGHTS_FILE))
    assert not loaded.unexpected_keys
    x = torch.randn(2, 7, 6)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_folder_is_dora_as_a_whole_or_not_at_all(tmp_path: Path):
    mixed = Adapter({**small_adapter().factors, "to_q": dora_adapter().factors["to_q"]})
    with pytest.raises(AdapterError, match=r"ff\.0 are not"):
        write_adapter(tmp_path / "mine", mixed)
    assert not list(tmp_path.iterdir())


def test_the_model_card_has_front_matter_that_the_hub_reads(tmp_path: Path):
    folder = write_adapter(tmp_path / "mine", small_adapter(), prompts=["a sitar raga"])
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["base_model"] == "ACE-Step/ACE-Step-v1-3.5B"
    assert values["base_model_relation"] == "adapter"
    assert "lora" in values["tags"]
    assert "rank 3 with alpha 5" in body
    assert "a sitar raga" in body


def test_a_base_that_is_no_repository_stays_out_of_the_front_matter(tmp_path: Path):
    local = Adapter(small_adapter().factors, METADATA.model_copy(update={"base_model": "nano"}))
    card = (write_adapter(tmp_path / "mine", local) / "README.md").read_text()
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer."])
def test_every_prefix_reads_to_the_same_adapter(tmp_path: Path, prefix: str):
    adapter = small_adapter()
    tensors = {prefix + name: tensor for name, tensor in as_official(adapter).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert_same_deltas(read_adapter(tmp_path / "x.safetensors", module_shapes(Small())), adapter)


def test_a_peft_folder_gives_its_strength_from_its_config(tmp_path: Path):
    adapter = small_adapter()
    tensors = {"base_model.model." + name: tensor for name, tensor in as_official(adapter).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"r": 3, "lora_alpha": 6, "rank_pattern": {"ff.0": 2}, "alpha_pattern": {"ff.0": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = read_adapter(tmp_path, module_shapes(Small()))
    assert_same_deltas(found, adapter, scale=2.0)
    assert found.report.scale_source == "adapter_config.json"


def test_alpha_tensors_go_before_the_header_and_the_header_before_the_config(tmp_path: Path):
    adapter = small_adapter()
    header = {"lora_adapter_metadata": json.dumps({"r": 3, "lora_alpha": 9})}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 300}))
    tensors = as_official(adapter) | {"to_q.alpha": torch.tensor(1.5)}
    save_file(tensors, tmp_path / WEIGHTS_FILE, metadata=header)
    found = read_adapter(tmp_path, module_shapes(Small()))
    torch.testing.assert_close(found.factors["to_q"].delta(), 0.5 * adapter.factors["to_q"].delta())
    torch.testing.assert_close(found.factors["ff.0"].delta(), 4.5 * adapter.factors["ff.0"].delta())
    assert found.report.scale_source == "alpha tensors, header"


def test_no_alpha_anywhere_is_one_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    adapter = small_adapter()
    save_file(as_official(adapter), tmp_path / "x.safetensors")
    with caplog.at_level(logging.WARNING):
        assert_same_deltas(read_adapter(tmp_path / "x.safetensors"), adapter)
    assert "names no alpha" in caplog.text


def test_raw_scale_leaves_the_factors_as_they_lie(tmp_path: Path):
    adapter = small_adapter()
    header = {"lora_adapter_metadata": json.dumps({"r": 3, "lora_alpha": 9})}
    save_file(as_official(adapter), tmp_path / "x.safetensors", metadata=header)
    assert_same_deltas(read_adapter(tmp_path / "x.safetensors", raw_scale=True), adapter)


def test_what_does_not_match_is_reported_and_the_rest_is_read(tmp_path: Path):
    tensors = as_official(small_adapter()) | {
        "elsewhere.lora_A.weight": torch.zeros(3, 6),
        "elsewhere.lora_B.weight": torch.zeros(4, 3),
    }
    tensors["ff.0.lora_A.weight"] = torch.zeros(2, 9, 3)
    save_file(tensors, tmp_path / "x.safetensors")
    report = read_adapter(tmp_path / "x.safetensors", module_shapes(Small())).report
    assert report.matched == ("to_q",)
    assert set(report.unmatched) == {"elsewhere.lora_A.weight", "elsewhere.lora_B.weight"}
    assert report.misshapen == ("ff.0: A (2, 9, 3), B (5, 2, 1)",)


def test_an_adapter_that_fits_nowhere_is_refused(tmp_path: Path):
    save_file(as_official(small_adapter()), tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="another base model"):
        read_adapter(tmp_path / "x.safetensors", {"other": (4, 6)})


def test_an_adapter_for_another_known_base_is_refused_with_that_bases_name(tmp_path: Path):
    folder = write_adapter(tmp_path / "nanos", nano_adapter())
    with pytest.raises(AdapterError, match="it was made for nano"):
        read_adapter(folder, base_shapes("v1"))


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora.ckpt"])
def test_pickles_are_refused_as_files_and_in_folders(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(CheckpointError, match="pickle"):
            read_adapter(place)


def test_a_pickle_under_another_name_is_refused(tmp_path: Path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="safetensors"):
        read_adapter(tmp_path / "x.safetensors")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path):
    tensors = as_official(small_adapter())
    tensors["to_q.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        read_adapter(tmp_path / "x.safetensors")


def test_other_kinds_of_adapter_are_named_and_not_half_read(tmp_path: Path):
    tensors = as_official(small_adapter()) | {"to_q.oft_blocks": torch.ones(4)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(AdapterError, match="OFT"):
        read_adapter(tmp_path / "x.safetensors")


def test_a_missing_path_says_what_can_be_given(tmp_path: Path):
    with pytest.raises(MissingWeightsError, match="hub id"):
        read_adapter(tmp_path / "nothing")


def test_writing_over_a_folder_that_is_no_adapter_is_refused(tmp_path: Path):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "one.wav").touch()
    with pytest.raises(AdapterError, match="no adapter"):
        write_adapter(tmp_path / "songs", small_adapter())
    assert (tmp_path / "songs" / "one.wav").exists()


def test_an_adapter_written_again_replaces_the_first(tmp_path: Path):
    write_adapter(tmp_path / "mine", small_adapter())
    one = replace(small_adapter(), factors={"to_q": small_adapter().factors["to_q"]})
    assert set(read_adapter(write_adapter(tmp_path / "mine", one)).factors) == {"to_q"}
