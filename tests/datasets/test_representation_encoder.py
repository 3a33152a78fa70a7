from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.datasets.representation_encoder import RepresentationEncoder, find_weights
from acestep.errors import AudioError, CheckpointError, MissingWeightsError
from acestep.families.base import RepresentationSource
from small_encoder import SOURCE, small_hubert, write_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


def noise(samples: int) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(0))


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def test_a_short_recording_gives_the_last_states_of_the_network_itself(folder: Path) -> None:
    audio = noise(4000)
    levelled = (audio - audio.mean()) / torch.sqrt(audio.var() + 1e-7)
    padded = torch.nn.functional.pad(levelled, (0, 16000 - 4000))
    with torch.no_grad():
        expected = small_hubert().eval()(padded.unsqueeze(0)).last_hidden_state[0]
    states = RepresentationEncoder.load(SOURCE, folder=folder).encode(audio)
    assert states.shape == (13, 16)  # 4000 samples at a hop of 320, the last one begun
    torch.testing.assert_close(states, expected[:13], rtol=1e-4, atol=1e-5)


def test_a_long_recording_is_heard_a_chunk_at_a_time(folder: Path) -> None:
    encoder = RepresentationEncoder.load(SOURCE, folder=folder)
    second = noise(16000)
    # Alike in level, so that levelling over the whole is levelling of each.
    states = encoder.encode(second.repeat(6))
    assert states.shape[0] == 6 * 49
    assert encoder.frame_rate == 49
    torch.testing.assert_close(states[:49], states[5 * 49 :], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[:49], encoder.encode(second), rtol=1e-3, atol=1e-3)


def test_loudness_and_offset_change_nothing(folder: Path) -> None:
    encoder = RepresentationEncoder.load(SOURCE, folder=folder)
    audio = noise(8000)
    torch.testing.assert_close(encoder.encode(0.2 * audio + 0.3), encoder.encode(audio), rtol=1e-3, atol=1e-4)


def test_silence_has_states_and_a_single_sample_has_none(folder: Path) -> None:
    encoder = RepresentationEncoder.load(SOURCE, folder=folder)
    assert encoder.encode(torch.zeros(8000)).isfinite().all()
    with pytest.raises(AudioError, match="1 samples are too few"):
        encoder.encode(torch.zeros(1))


def test_checkpoints_with_older_names_or_a_prefix_are_the_same_encoder(folder: Path) -> None:
    expected = RepresentationEncoder.load(SOURCE, folder=folder).fingerprint()
    conv = "encoder.pos_conv_embed.conv"

    def older(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
            tensors[f"{conv}.{old}"] = tensors.pop(f"{conv}.parametrizations.weight.{new}")
        return {f"hubert.{name}": tensor for name, tensor in {**tensors, "masked_spec_embed": torch.ones(16)}.items()}

    edit_weights(folder, older)
    edit_config(
        folder, model_type="mert_model", auto_map={"AutoModel": "modeling_MERT.MERTModel"}, attention_relax=32.0
    )
    assert RepresentationEncoder.load(SOURCE, folder=folder).fingerprint() == expected


@pytest.mark.parametrize("extra", ["feature_extractor_cqt", "deepnorm"])
def test_what_only_merts_own_code_can_do_is_refused(folder: Path, extra: str) -> None:
    edit_config(folder, **{extra: False})
    RepresentationEncoder.load(SOURCE, folder=folder)
    edit_config(folder, **{extra: True})
    with pytest.raises(CheckpointError, match=extra):
        RepresentationEncoder.load(SOURCE, folder=folder)


def test_an_encoder_of_another_width_is_refused(folder: Path) -> None:
    wider = RepresentationSource("small", "someone/small", 16000, 1.0, width=32)
    with pytest.raises(CheckpointError, match=r"width 16.*32"):
        RepresentationEncoder.load(wider, folder=folder)


def test_tensors_that_do_not_fit_are_named_by_kind(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["encoder.layer_norm.bias"]
        return {**tensors, "extra.weight": torch.ones(1), "encoder.layer_norm.weight": torch.ones(3)}

    edit_weights(folder, spoil)
    with pytest.raises(CheckpointError) as raised:
        RepresentationEncoder.load(SOURCE, folder=folder)
    told = str(raised.value)
    assert "1 missing (encoder.layer_norm.bias)" in told
    assert "1 unexpected (extra.weight)" in told
    assert "1 misshapen (encoder.layer_norm.weight)" in told


def test_a_broken_config_or_file_is_told(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        RepresentationEncoder.load(SOURCE, folder=folder)
    (folder / "model.safetensors").write_bytes(whole)
    edit_config(folder, num_attention_heads=3)
    with pytest.raises(CheckpointError, match="no HuBERT network"):
        RepresentationEncoder.load(SOURCE, folder=folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="lacks hidden_size"):
        RepresentationEncoder.load(SOURCE, folder=folder)


def test_weights_that_are_not_here_are_asked_for_and_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="hf download acestep-tests/not-here"):
        find_weights(RepresentationSource("small", "acestep-tests/not-here", 16000, 1.0, 16))
    with pytest.raises(MissingWeightsError, match=r"lacks config.json, model.safetensors"):
        find_weights(SOURCE, folder=tmp_path)


def test_weights_as_a_pickle_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingWeightsError, match="pickle"):
        find_weights(SOURCE, folder=folder)


def test_a_network_in_half_precision_is_loaded_as_the_same_in_float32(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
    assert RepresentationEncoder.load(SOURCE, folder=folder).encode(noise(800)).dtype == torch.float32
