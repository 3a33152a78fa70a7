from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.errors import CheckpointError, InputError, MissingWeightsError
from acestep.families import Conditioning, drop_conditioning
from acestep.families.checkpoint import fingerprint
from acestep.families.loading import load_family
from acestep.families.v1 import V1Family
from acestep.lora import module_shapes
from small_checkpoint import make_checkpoint, write_letter_vocabulary


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def family(checkpoint: Path) -> V1Family:
    return V1Family.load(checkpoint)


def test_a_small_checkpoint_gets_the_erg_options_that_it_is_deep_enough_for(family: V1Family) -> None:
    assert family.sampling.erg == ("tag", "lyric")
    conditioning = family.encode_prompt(["soul"], [""])
    with pytest.raises(InputError, match="diffusion"):
        family.branches(conditioning, erg=["diffusion"])


def test_a_song_without_words_has_one_masked_token(family: V1Family) -> None:
    conditioning = family.encode_prompt(["soul", "lofi"], ["", "[verse]\nla"])
    assert conditioning.lyric_mask[0].sum() == 0
    assert conditioning.lyric_mask[1].all()


def test_words_need_a_vocabulary_and_songs_without_do_not(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACESTEP_CACHE", str(tmp_path / "cache"))
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("lyric_tokenizer"))
    family = V1Family.load(bare)
    assert family.encode_prompt(["soul"], [""]).batch_size == 1
    with pytest.raises(MissingWeightsError, match="364"):
        family.encode_prompt(["soul"], ["[verse]\nla"])


def test_encoders_are_told_apart_by_what_is_in_them(checkpoint: Path, tmp_path: Path) -> None:
    first = V1Family.load(checkpoint).encoder_fingerprints()
    assert V1Family.load(checkpoint, dtype=torch.bfloat16).encoder_fingerprints() == first
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    write_letter_vocabulary(other / "lyric_tokenizer" / "vocab.json", extra=("[solo]",))
    changed = V1Family.load(other).encoder_fingerprints()
    assert changed.audio == first.audio
    assert changed.text != first.text


def test_training_and_generation_predict_the_same_velocity(family: V1Family) -> None:
    conditioning = family.encode_prompt(["upbeat synth pop"], ["[verse]\nhello"])
    latents = torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(0))
    trained = family.velocity(latents, torch.tensor([0.6]), conditioning)
    branches = family.branches(conditioning)
    torch.testing.assert_close(branches.conditional(latents, 0.6), trained, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(branches.contrasted(latents, 0.6)[0], trained, rtol=1e-5, atol=1e-5)


def test_dropping_conditioning_keeps_the_texts_mask_and_not_the_lyrics(family: V1Family) -> None:
    conditioning = Conditioning.stack([family.encode_prompt(["soul"], ["[verse]\nla"])] * 2)
    yes = torch.tensor([True, False])
    dropped = drop_conditioning(conditioning, text=yes, speaker=yes, lyrics=yes)
    assert not dropped.text_states[0].any()
    assert torch.equal(dropped.text_mask, conditioning.text_mask)
    assert not dropped.lyric_mask[0].any()
    for name, tensor in conditioning.tensors().items():
        assert torch.equal(dropped.tensors()[name][1], tensor[1])


SONGS = (("upbeat synth pop with a long list of words", "[verse]\nla"), ("soul", "[verse]\nhello my dear\nla la"))


def batch_of(songs: Sequence[Conditioning]) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Noisy latents, noise levels and padded conditioning for these songs."""
    latents = torch.randn(len(songs), 8, 16, 20, generator=torch.Generator().manual_seed(0))
    return latents, torch.linspace(0.3, 0.7, len(songs)), Conditioning.stack(songs)


def test_a_song_learns_the_same_alone_and_in_a_padded_batch(family: V1Family) -> None:
    songs = [family.encode_prompt([prompt], [lyrics]) for prompt, lyrics in SONGS]
    songs.append(family.encode_prompt(["drone"], [""]))
    latents, sigmas, together = batch_of(songs)
    batched = family.velocity(latents, sigmas, together)
    for index, song in enumerate(songs):
        alone = family.velocity(latents[index : index + 1], sigmas[index : index + 1], song)
        torch.testing.assert_close(batched[index : index + 1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropped", [(False, False), (True, False), (True, True)])
def test_lyric_states_computed_before_change_no_velocity(family: V1Family, dropped: tuple[bool, bool]) -> None:
    songs = [family.encode_prompt([prompt], [lyrics]) for prompt, lyrics in SONGS]
    stored = [replace(song, lyric_states=family.encode_lyrics(song)) for song in songs]
    no = torch.zeros(2, dtype=torch.bool)
    velocities = []
    for items in (songs, stored):
        latents, sigmas, conditioning = batch_of(items)
        kept = drop_conditioning(conditioning, text=no, speaker=no, lyrics=torch.tensor(dropped))
        velocities.append(family.velocity(latents, sigmas, kept))
    torch.testing.assert_close(velocities[1], velocities[0], rtol=1e-5, atol=1e-6)


def test_a_songs_stored_lyric_states_give_the_very_bits_of_the_live_ones(family: V1Family) -> None:
    song = family.encode_prompt(["soul"], ["[verse]\nhello"])
    stored = replace(song, lyric_states=family.encode_lyrics(song))
    latents, sigmas, _ = batch_of([song])
    assert torch.equal(family.velocity(latents, sigmas, stored), family.velocity(latents, sigmas, song))


def test_stored_lyric_states_keep_the_lyric_encoder_from_running(family: V1Family) -> None:
    song = family.encode_prompt(["soul"], ["[verse]\nhello"])
    stored = replace(song, lyric_states=family.encode_lyrics(song))
    latents, sigmas, _ = batch_of([song])
    calls: list[str] = []
    hooks = [
        family.network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in family.lyric_modules
    ]
    family.velocity(latents, sigmas, stored)
    assert not calls
    family.velocity(latents, sigmas, song)
    assert calls == list(family.lyric_modules)
    for hook in hooks:
        hook.remove()


def test_generation_takes_no_stored_lyric_states(family: V1Family) -> None:
    song = family.encode_prompt(["soul"], ["[verse]\nhello"])
    wrong = replace(song, lyric_states=torch.full_like(family.encode_lyrics(song), 7.0))
    latents = torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(0))
    velocities = [family.branches(item).conditional(latents, 0.5) for item in (song, wrong)]
    assert torch.equal(*velocities)


def test_alignment_heads_are_read_when_asked_for_and_change_neither_base_nor_velocity(checkpoint: Path) -> None:
    family = V1Family.load(checkpoint)
    base, latents = family.fingerprint(), torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(0))
    song, sigmas = family.encode_prompt(["soul"], ["[verse]\nla"]), torch.tensor([0.4])
    with pytest.raises(MissingWeightsError, match="load_alignment_heads"):
        family.velocity_with_alignment(latents, sigmas, song)
    family.load_alignment_heads()
    family.load_alignment_heads()
    velocity, predictions = family.velocity_with_alignment(latents, sigmas, song)
    assert torch.equal(velocity, family.velocity(latents, sigmas, song))
    assert [item.shape for item in predictions] == [(1, 20, source.width) for source in family.representation_sources]
    assert fingerprint(family.network) == base
    assert not any("projectors" in name for name in module_shapes(family.network))


def test_the_heads_of_v1_foretell_mert_and_mhubert(family: V1Family) -> None:
    rates = {source.hub_id: source.sample_rate for source in family.representation_sources}
    assert rates == {"m-a-p/MERT-v1-330M": 24000, "utter-project/mHuBERT-147": 16000}


def test_a_base_without_alignment_heads_says_so() -> None:
    nano = load_family("nano", device="cpu")
    assert nano.representation_sources == ()
    with pytest.raises(MissingWeightsError, match="nano has no alignment heads"):
        nano.load_alignment_heads()


def test_a_checkpoint_that_names_heads_and_stores_none_says_so(checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    path = bare / "ace_step_transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if not name.startswith("projectors.")}, path)
    with pytest.raises(MissingWeightsError, match="no alignment heads"):
        V1Family.load(bare).load_alignment_heads()


def test_unknown_defaults_in_a_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    (odd / "family.json").write_text('{"name": "odd", "sampling": {"cfg": 3}}')
    with pytest.raises(CheckpointError, match=r"cfg.*guidance_scale"):
        load_family(odd, device="cpu")
