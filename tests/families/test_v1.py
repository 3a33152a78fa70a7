from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from acestep.errors import CheckpointError, InputError, MissingWeightsError
from acestep.families import Conditioning, drop_conditioning
from acestep.families.loading import load_family
from acestep.families.v1 import V1Family
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


def test_unknown_defaults_in_a_checkpoint_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(checkpoint, odd)
    (odd / "family.json").write_text('{"name": "odd", "sampling": {"cfg": 3}}')
    with pytest.raises(CheckpointError, match=r"cfg.*guidance_scale"):
        load_family(odd, device="cpu")
