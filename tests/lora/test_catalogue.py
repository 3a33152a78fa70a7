import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from acestep.errors import MissingWeightsError
from acestep.lora import read_adapter
from acestep.lora.bases import base_shapes, guess_base
from acestep.lora.catalogue import CATALOGUE, find_official, hub_id_of, trained_strength
from acestep.lora.keys import ModuleNames, parse_key
from acestep.lora.locating import locate_adapter
from acestep.lora.tensor_file import TensorEntry
from reference_data import reference_path

RAP = "ACE-Step/ACE-Step-v1-chinese-rap-LoRA"
CACHED = "/x/models--ACE-Step--ACE-Step-v1-chinese-rap-LoRA/snapshots/1/a.safetensors"


def test_three_are_released_and_four_planned_each_with_all_that_a_user_asks():
    assert [lora.name for lora in CATALOGUE if lora.status == "released"] == [
        "Lyric2Vocal",
        "Text2Samples",
        "RapMachine",
    ]
    assert [lora.name for lora in CATALOGUE if lora.status == "planned"] == [
        "StemGen",
        "Singing2Accompaniment",
        "EDMaster",
        "LoFiVibes",
    ]
    for lora in CATALOGUE:
        assert all((lora.purpose, lora.best_use, lora.example_prompt))
        assert (lora.hub_id is not None) == (lora.size_mb is not None) == (lora.status == "released")


@pytest.mark.parametrize("name", ["RapMachine", "rapmachine", RAP, CACHED])
def test_an_official_lora_is_known_by_name_hub_id_and_place_in_the_cache(name: str):
    found = find_official(name)
    assert found is not None
    assert found.hub_id == RAP


@pytest.mark.parametrize("name", ["", "rap", "ACE-Step/other", "./RapMachine", "my--lora"])
def test_other_names_are_none_of_them(name: str):
    assert find_official(name) is None
    assert hub_id_of(name) is None


def test_a_planned_one_says_so_and_what_there_is():
    with pytest.raises(MissingWeightsError, match=r"StemGen is planned.*RapMachine"):
        locate_adapter("StemGen")


def test_an_official_name_is_fetched_from_its_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file(
        {"speaker_embedder.lora_A.weight": torch.ones(256, 3), "speaker_embedder.lora_B.weight": torch.ones(2, 256)},
        tmp_path / "pytorch_lora_weights.safetensors",
    )
    asked = []

    def download(repository: str, **_: object) -> str:
        asked.append(repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("RapMachine", RAP):
        found = read_adapter(name)
        assert found.report.scale_source == "catalogue"
        assert found.report.scales["speaker_embedder"] == pytest.approx(2.0)
        torch.testing.assert_close(found.factors["speaker_embedder"].delta(), torch.full((2, 3), 512.0))
        raw = read_adapter(name, raw_scale=True)
        torch.testing.assert_close(raw.factors["speaker_embedder"].delta(), torch.full((2, 3), 256.0))
    assert asked == [RAP] * 4


def test_only_the_rap_lora_needs_the_catalogue_for_its_strength():
    settings = trained_strength(RAP)
    assert settings is not None
    assert settings.scale("speaker_embedder", 256) == pytest.approx(2.0)
    assert trained_strength("Lyric2Vocal") is None


def test_every_key_of_the_released_rap_lora_lands_on_a_module_of_v1_with_its_shape():
    manifest = json.loads(reference_path("manifests/lora_zh_rap_full_size.json").read_text())
    shapes, names = base_shapes("v1"), ModuleNames(base_shapes("v1"))
    entries = {key: TensorEntry("F32", tuple(tensor["shape"]), 0, 0) for key, tensor in manifest["tensors"].items()}
    assert guess_base(entries) == "v1"
    for key, entry in entries.items():
        parsed = parse_key(key)
        assert parsed is not None
        module = names.resolve(parsed[0])
        assert module is not None
        out, into = shapes[module]
        assert entry.shape == ((256, into) if parsed[1] == "A" else (out, 256))
