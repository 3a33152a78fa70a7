import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import CheckpointError
from acestep.lora import Adapter, Factors, read_adapter, write_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.conversion import convert_adapter
from acestep.lora.formats import FORMATS
from acestep.lora.inspection import group_of, inspect_adapter
from acestep.lora.locating import WEIGHTS_FILE
from reference_data import reference_path
from small_adapter import MODULES, nano_adapter


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "mine", nano_adapter())


def test_our_own_folder_is_told_in_full(written: Path):
    found = inspect_adapter(written)
    assert (found.base, found.metadata.family, found.producer, found.naming) == ("nano", "nano", "AceSteps", "acestep")
    assert (found.kinds, found.ranks, found.strengths) == (("LoRA",), {5: 4}, {1.0: 4})
    assert found.size_bytes == (written / WEIGHTS_FILE).stat().st_size
    assert found.dtypes == ("F32",)
    assert found.not_finite == found.unmatched == found.misshapen == ()
    norms = {module.module: module.norm for module in found.modules}
    for module, factors in nano_adapter().factors.items():
        assert norms[module] == pytest.approx(float(factors.delta().norm()), rel=1e-5)
    json.dumps(found.as_dict(), allow_nan=False)


def test_coverage_counts_the_bases_modules_by_group(written: Path):
    counted = {part.group: (part.adapted, part.there_are) for part in inspect_adapter(written).coverage}
    blocks = sum(name.endswith(".attn.to_q") for name in base_shapes("nano"))
    assert counted["self attention"] == (1, 4 * blocks)
    assert counted["feed-forward"] == (1, 2 * blocks)
    assert sum(there for _, there in counted.values()) == len(base_shapes("nano"))


@pytest.mark.parametrize("name", FORMATS)
def test_each_programs_own_format_is_read_by_it_as_it_is(tmp_path: Path, written: Path, name: str):
    path = convert_adapter(written, tmp_path / "out", name).path
    found = inspect_adapter(path, measure=False)
    own = {"acestep": "the official ACE-Step", "peft": "PEFT", "diffusers": "diffusers", "comfyui": "ComfyUI"}
    own["kohya"] = "kohya's and musubi's programs"
    assert found.naming == name
    assert {reader.program: reader.note for reader in found.readers}[own[name]] == ""
    assert {reader.note for reader in found.readers} == {""}


def test_a_strength_that_others_pass_over_is_said_for_each_of_them(tmp_path: Path, written: Path):
    tensors = load_file(written / WEIGHTS_FILE)
    header = {"lora_adapter_metadata": json.dumps({"r": 5, "lora_alpha": 10})}
    save_file(tensors, tmp_path / "x.safetensors", metadata=header)
    found = inspect_adapter(tmp_path / "x.safetensors", measure=False)
    notes = {reader.program: reader.note for reader in found.readers}
    assert found.strengths == {2.0: 4}
    assert found.scale_source == "header"
    assert notes["the official ACE-Step"] == notes["ComfyUI"] == "plays it at strength 1, trained was 2"
    assert notes["AceSteps"] == notes["diffusers"] == ""


def test_the_released_rap_lora_is_told_from_its_header_without_its_gigabyte(tmp_path: Path):
    manifest = json.loads(reference_path("manifests/lora_zh_rap_full_size.json").read_text())
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in manifest["tensors"].items():
        start, end = end, end + 4 * tensor["shape"][0] * tensor["shape"][1]
        header[name] = {"dtype": "F32", "shape": tensor["shape"], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    place = tmp_path / "models--ACE-Step--ACE-Step-v1-chinese-rap-LoRA" / "snapshots" / "x.safetensors"
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    found = inspect_adapter(place, measure=False)
    assert (found.base, found.kinds, found.ranks, found.strengths) == ("v1", ("LoRA",), {256: 211}, {2.0: 211})
    assert found.scale_source == "catalogue"
    assert found.unmatched == found.misshapen == found.incomplete == ()
    assert {part.group: part.adapted for part in found.coverage}["cross attention"] == 96
    notes = {reader.program: reader.note for reader in found.readers}
    assert notes.pop("AceSteps") == ""
    assert set(notes) == {"the official ACE-Step", "diffusers", "ComfyUI"}
    assert set(notes.values()) == {"plays it at strength 1, trained was 2"}


def test_without_measuring_no_tensor_is_read(written: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr("acestep.lora.tensor_file.TensorFile.read", lambda self, names=None: asked.extend(names) or {})
    found = inspect_adapter(written, measure=False)
    assert asked == []
    assert not found.measured
    assert found.as_dict()["not_finite"] is None


def test_nan_is_named_and_no_error_here_while_reading_refuses_it(written: Path):
    tensors = load_file(written / WEIGHTS_FILE)
    tensors[f"{MODULES[0]}.lora_A.weight"][0, 0] = float("nan")
    save_file(tensors, written / WEIGHTS_FILE)
    found = inspect_adapter(written)
    assert found.not_finite == (f"{MODULES[0]}.lora_A.weight",)
    json.dumps(found.as_dict(), allow_nan=False)
    with pytest.raises(CheckpointError, match="not finite"):
        read_adapter(written)


def test_modules_of_another_shape_strange_keys_and_missing_halves_are_listed(tmp_path: Path, written: Path):
    tensors = load_file(written / WEIGHTS_FILE)
    tensors[f"{MODULES[0]}.lora_A.weight"] = torch.ones(5, 7)
    tensors["elsewhere.lora_A.weight"] = torch.ones(5, 7)
    del tensors[f"{MODULES[1]}.lora_B.weight"]
    save_file(tensors, tmp_path / "x.safetensors")
    found = inspect_adapter(tmp_path / "x.safetensors")
    assert found.misshapen == (MODULES[0],)
    assert found.unmatched == ("elsewhere.lora_A.weight",)
    assert found.incomplete == (MODULES[1],)


def test_a_file_for_no_known_base_is_told_without_one(tmp_path: Path):
    folder = write_adapter(tmp_path / "a", Adapter({"to_q": Factors(torch.ones(2, 3), torch.ones(4, 2))}))
    found = inspect_adapter(folder)
    assert found.base is None
    assert [module.fits for module in found.modules] == [None]
    assert found.ranks == {2: 1}
    held = inspect_adapter(folder, base="nano")
    assert held.modules == ()
    assert held.readers == ()


@pytest.mark.parametrize(
    ("metadata", "producer"),
    [
        ({"ss_network_module": "networks.lora"}, "kohya's sd-scripts or musubi-tuner"),
        ({"ss_network_module": "lycoris.kohya"}, "LyCORIS"),
        ({"software": '{"name": "ai-toolkit", "repo": "x"}'}, "ai-toolkit"),
        ({"software": "SomeTrainer 1.0"}, "SomeTrainer 1.0"),
        ({"lora_adapter_metadata": '{"r": 5, "lora_alpha": 5}'}, "diffusers"),
        ({"format": "pt"}, "ACE-Step's own trainer"),
    ],
)
def test_who_made_it_is_told_by_what_programs_leave(
    tmp_path: Path, written: Path, metadata: dict[str, str], producer: str
):
    save_file(load_file(written / WEIGHTS_FILE), tmp_path / "x.safetensors", metadata=metadata)
    assert inspect_adapter(tmp_path / "x.safetensors", measure=False).producer == producer


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("transformer_blocks.3.attn.to_q", "self attention"),
        ("transformer_blocks.3.cross_attn.to_q", "cross attention"),
        ("transformer_blocks.3.ff.point_conv.conv", "feed-forward"),
        ("lyric_encoder.encoders.0.self_attn.linear_q", "lyric encoder"),
        ("speaker_embedder", "speaker"),
        ("proj_in.early_conv_layers.0", "other"),
    ],
)
def test_modules_are_grouped_by_the_part_of_the_model(module: str, group: str):
    assert group_of(module) == group
