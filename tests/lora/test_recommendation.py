from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import AdapterError
from acestep.lora.adapter import Adapter, Factors, read_adapter, write_adapter
from acestep.lora.metadata import AdapterMetadata, TrainedWith
from acestep.lora.recommendation import is_own_folder, write_findings

METADATA = AdapterMetadata(family="v1", base_model="nano", trained=TrainedWith(rank=2, alpha=4.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    factors = Factors(torch.randn(2, 3), torch.randn(4, 2))
    return write_adapter(tmp_path / "mine", Adapter({"blocks.0.to_q": factors}, METADATA))


def nothing(_: Path) -> dict[str, str]:
    return {}


def test_a_strength_is_written_and_nothing_else_changes(folder: Path) -> None:
    before = read_adapter(folder)
    tensors = load_file(folder / "pytorch_lora_weights.safetensors")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nlora_weight=9 is mine\n")
    write_findings(folder, recommended_strength=0.75, files=nothing)
    after = read_adapter(folder)
    assert after.metadata == before.metadata.model_copy(update={"recommended_strength": 0.75})
    for name, tensor in load_file(folder / "pytorch_lora_weights.safetensors").items():
        torch.testing.assert_close(tensor, tensors[name], rtol=0, atol=0)
    card = (folder / "README.md").read_text()
    assert "lora_weight=0.75)" in card
    assert "lora_weight=9 is mine" in card


def test_what_a_newer_program_wrote_into_the_header_is_kept(folder: Path) -> None:
    path = folder / "pytorch_lora_weights.safetensors"
    record = METADATA.model_dump_json()[:-1] + ', "invented": 7}'
    save_file(load_file(path), path, metadata={"acestep_adapter": record, "other": "kept"})
    write_findings(folder, recommended_strength=0.5, files=nothing)
    header = path.read_bytes()[:2000].decode(errors="ignore")
    assert "invented" in header
    assert '"other":"kept"' in header


def test_files_are_told_the_weights_as_they_will_be(folder: Path) -> None:
    def tell(weights: Path) -> dict[str, str]:
        return {"note.txt": f"{read_adapter(weights).metadata.recommended_strength}"}

    write_findings(folder, recommended_strength=1.25, files=tell)
    assert (folder / "note.txt").read_text() == "1.25"


def test_what_fails_in_the_middle_leaves_the_folder_as_it_was(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(_: Path) -> dict[str, str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_findings(folder, recommended_strength=1.25, files=fail)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


@pytest.mark.parametrize("strength", [0.0, -1.0, 11.0, float("nan"), float("inf")])
def test_a_strength_that_cannot_be_meant_is_refused(folder: Path, strength: float) -> None:
    with pytest.raises(AdapterError, match="more than 0"):
        write_findings(folder, recommended_strength=strength, files=nothing)


def test_another_programs_folder_is_not_ours(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    assert not is_own_folder(tmp_path)
    assert not is_own_folder(tmp_path / "none")
    with pytest.raises(AdapterError, match="no adapter folder"):
        write_findings(tmp_path, recommended_strength=1.0, files=nothing)
