from __future__ import annotations

from pathlib import Path

import pytest

from acestep.errors import InputError, MissingWeightsError
from acestep.families.hub import V1_FILES, V1_HUB_ID, find_checkpoint
from reference_data import reference_path


def lay_out_hub_cache(cache: Path, hub_id: str, checkpoint: Path) -> Path:
    """The folders that huggingface_hub keeps for a downloaded repository -> the snapshot's folder."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name in V1_FILES:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to((checkpoint / name).resolve())
    return snapshot


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The hub's functions take their cache folder from this module at each call.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_folder_is_taken_as_it_is() -> None:
    checkpoint = reference_path("tiny/checkpoint")
    assert find_checkpoint(checkpoint) == checkpoint
    assert find_checkpoint(str(checkpoint)) == checkpoint


def test_a_hub_id_is_found_in_the_cache_without_a_connection(hub_cache: Path) -> None:
    snapshot = lay_out_hub_cache(hub_cache, V1_HUB_ID, reference_path("tiny/checkpoint"))
    assert find_checkpoint(V1_HUB_ID).resolve() == snapshot.resolve()


def test_missing_weights_say_what_how_large_and_which_command(hub_cache: Path) -> None:
    with pytest.raises(MissingWeightsError) as raised:
        find_checkpoint(V1_HUB_ID)
    assert "8.3 GB" in str(raised.value)
    assert f"hf download {V1_HUB_ID}" in str(raised.value)


def test_a_half_downloaded_checkpoint_is_not_taken(hub_cache: Path) -> None:
    snapshot = lay_out_hub_cache(hub_cache, V1_HUB_ID, reference_path("tiny/checkpoint"))
    (snapshot / "music_vocoder" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match="hf download"):
        find_checkpoint(V1_HUB_ID)


def test_an_incomplete_folder_lists_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"umt5-base/model\.safetensors"):
        find_checkpoint(tmp_path)


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "ace_step_transformer").mkdir()
    (tmp_path / "ace_step_transformer" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(MissingWeightsError, match=r"pytorch_model\.bin.*refused"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["", "no such folder", "a/b/c", "../nowhere", "https://example.org/model"])
def test_a_name_that_is_nothing_says_what_would_be_right(name: str) -> None:
    with pytest.raises((InputError, MissingWeightsError), match="nano"):
        find_checkpoint(name if name else "no-model")


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="is a file"):
        find_checkpoint(file)
