from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.datasets.lyric_states import needs_lyric_encoder, with_lyric_states
from acestep.errors import DatasetError
from acestep.models.quantization import quantize_network
from small_family import SmallFamily

BLOCKS = ("transformer_blocks.0.attn.to_q", "lyric_proj")


@pytest.fixture
def family() -> SmallFamily:
    return SmallFamily()


def make(root: Path, family: SmallFamily, lyrics: list[str]) -> LatentDataset:
    cache, tracks = LatentCache(root), []
    for index, text in enumerate(lyrics):
        latents, conditioning = (cache.path(kind, index=index) for kind in ("latents", "conditioning"))
        cache.store(latents, {"latents": torch.randn(8, 16, 12)})
        cache.store(conditioning, family.encode_prompt([f"track {index}"], [text]).tensors())
        tracks.append(CachedTrack(f"{index}.wav", f"content {index}", f"track {index}", 12, latents, conditioning))
    return LatentDataset(tuple(tracks), 10)


@pytest.mark.parametrize(
    ("trained", "needed"),
    [
        (BLOCKS, False),
        ((), False),
        (("lyric_encoder.encoders.0.self_attn.linear_q",), True),
        ((*BLOCKS, "lyric_embs"), True),
        (("lyric_encoder_of_another_kind.linear",), False),
    ],
)
def test_only_an_adapter_on_the_lyric_encoder_needs_it_at_each_step(
    family: SmallFamily, trained: tuple[str, ...], needed: bool
) -> None:
    assert needs_lyric_encoder(family, trained) is needed


def test_a_dataset_whose_lyric_encoder_is_trained_stays_as_it_is(tmp_path: Path, family: SmallFamily) -> None:
    dataset = make(tmp_path, family, ["la"])
    trained = ["lyric_encoder.encoders.0.self_attn.linear_q"]
    assert with_lyric_states(dataset, family, trained, LatentCache(tmp_path)) is dataset
    assert not family.lyrics_encoded


def test_a_family_without_lyric_states_is_left_alone(tmp_path: Path, family: SmallFamily) -> None:
    family.lyric_modules = ()
    dataset = make(tmp_path, family, ["la"])
    assert with_lyric_states(dataset, family, BLOCKS, LatentCache(tmp_path)) is dataset


def test_a_batch_with_stored_states_gives_the_velocity_of_one_without(tmp_path: Path, family: SmallFamily) -> None:
    dataset = make(tmp_path, family, ["one\ntwo\nthree", "", "four"])
    stored = with_lyric_states(dataset, family, BLOCKS, LatentCache(tmp_path))
    velocities = []
    for source in (dataset, stored):
        batch = source.batch([0, 1, 2])
        velocities.append(family.velocity(batch.latents, torch.tensor([0.2, 0.5, 0.8]), batch.conditioning))
    assert stored.batch([0]).conditioning.lyric_states is not None
    torch.testing.assert_close(velocities[1], velocities[0], rtol=1e-5, atol=1e-6)


def test_equal_lyrics_are_encoded_once_and_another_run_encodes_none(tmp_path: Path, family: SmallFamily) -> None:
    dataset, cache = make(tmp_path, family, ["la", "la", "", ""]), LatentCache(tmp_path)
    first = with_lyric_states(dataset, family, BLOCKS, cache)
    assert family.lyrics_encoded == 2
    assert with_lyric_states(first, family, BLOCKS, cache) == first
    assert family.lyrics_encoded == 2


def test_another_base_or_precision_has_states_of_its_own(tmp_path: Path, family: SmallFamily) -> None:
    dataset, cache = make(tmp_path, family, ["la"]), LatentCache(tmp_path)
    paths = {with_lyric_states(dataset, family, BLOCKS, cache).tracks[0].lyric_states}
    with torch.no_grad():
        family.network.lyric_embs.weight += 1
    paths.add(with_lyric_states(dataset, family, BLOCKS, cache).tracks[0].lyric_states)
    paths.add(with_lyric_states(dataset, family.to(dtype=torch.bfloat16), BLOCKS, cache).tracks[0].lyric_states)
    assert len(paths) == 3


def test_a_damaged_entry_is_made_again(tmp_path: Path, family: SmallFamily) -> None:
    dataset, cache = make(tmp_path, family, ["la"]), LatentCache(tmp_path)
    stored = with_lyric_states(dataset, family, BLOCKS, cache)
    path = stored.tracks[0].lyric_states
    assert path is not None
    path.write_bytes(path.read_bytes()[:20])
    again = with_lyric_states(dataset, family, BLOCKS, cache)
    assert again.batch([0]).conditioning.lyric_states is not None


def test_a_full_disk_is_told_with_the_track_and_the_folder(
    tmp_path: Path, family: SmallFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, cache = make(tmp_path, family, ["la"]), LatentCache(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "store", full)
    with pytest.raises(DatasetError, match=r"0\.wav.*No space left"):
        with_lyric_states(dataset, family, BLOCKS, cache)


def test_states_that_have_gone_from_the_cache_are_told(tmp_path: Path, family: SmallFamily) -> None:
    dataset = make(tmp_path, family, ["la"])
    gone = replace(dataset, tracks=(replace(dataset.tracks[0], lyric_states=tmp_path / "gone.safetensors"),))
    with pytest.raises(DatasetError, match="prepare the dataset again"):
        gone.batch([0])


def test_a_quantised_base_has_states_of_its_own(tmp_path: Path, family: SmallFamily) -> None:
    dataset, cache = make(tmp_path, family, ["la la"]), LatentCache(tmp_path)
    plain = with_lyric_states(dataset, family, BLOCKS, cache)
    whole = family.fingerprint()
    quantize_network(family.network, "nf4", smallest=64)
    family.fingerprint = lambda: whole  # type: ignore[method-assign]
    quantized = with_lyric_states(dataset, family, BLOCKS, cache)
    assert quantized.tracks[0].lyric_states != plain.tracks[0].lyric_states
