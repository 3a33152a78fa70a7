"""The autoencoder against the released implementation's numbers, and against diffusers where there are none."""

import json

import pytest
import torch

from acestep.errors import CheckpointError
from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from reference_data import load_golden, load_json
from tiny_checkpoints import assert_close, load_autoencoder

EARLY_HALVING = {
    "in_channels": 2,
    "latent_channels": 4,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": [8, 16, 32],
    "decoder_block_out_channels": [8, 16, 32],
    "encoder_layers_per_block": [0, 1, 1],
    "decoder_layers_per_block": [0, 1, 1],
    "encoder_qkv_multiscales": [[], [], []],
    "decoder_qkv_multiscales": [[], [], []],
}


def test_every_stage_gives_the_released_states():
    model, golden = load_autoencoder(), load_golden("tiny/goldens/dcae_modules.safetensors")
    parts = {name: name for name in golden if name.startswith("mid.")}
    seen = {}
    for name in parts:
        path = name.replace("mid.enc", "encoder").replace("mid.dec", "decoder")
        model.get_submodule(path).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    assert_close(model.encoder(golden["in.encoder"]), golden["out.encoder"])
    assert_close(model.decoder(golden["in.decoder"]), golden["out.decoder"])
    for name in parts:
        assert_close(seen[name], golden[name])


def test_a_map_smaller_than_a_head_gives_the_released_latents():
    golden = load_golden("tiny/goldens/dcae_modules.safetensors")
    assert_close(load_autoencoder().encoder(golden["in.encoder_w8"]), golden["out.encoder_w8"])


def test_latents_and_mel_are_the_released_ones():
    model = load_autoencoder()
    encoding, decoding = (load_golden(f"tiny/goldens/dcae_{way}.safetensors") for way in ("encode", "decode"))
    assert_close(model.encode(encoding["mid.mel"]), encoding["out.latents"])
    assert_close(model.decode(decoding["in.latents"]), decoding["mid.mel"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["released", "halved at once"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_long_recording_in_windows_becomes_what_it_becomes_at_once(kind, shuffled):
    torch.manual_seed(0)
    settings = load_json("tiny/checkpoint/music_dcae_f8c8/config.json") if kind == "released" else EARLY_HALVING
    if shuffled:
        settings = {**settings, "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle"}
    model = MusicAutoencoder(AutoencoderConfig.from_dict(settings)).eval()
    mel = 3 * torch.randn(1, 2, 32, 360) - 4
    latents = model.encode(mel)
    assert_close(model.encode(mel, window_frames=100), latents, 2e-6)
    assert_close(model.decode(latents, window_frames=100), model.decode(latents), 2e-6)


def test_the_full_size_model_has_the_released_tensors():
    config = AutoencoderConfig.from_dict(load_json("manifests/configs/music_dcae_f8c8/config.json"))
    with torch.device("meta"):
        model = MusicAutoencoder(config)
    manifest = load_json("manifests/music_dcae_f8c8.json")["tensors"]
    owned = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert owned == {name: entry["shape"] for name, entry in manifest.items()}


@pytest.mark.parametrize(
    "sampling", [("Conv", "interpolate"), ("pixel_unshuffle", "pixel_shuffle")], ids=["conv", "shuffle"]
)
def test_a_net_that_halves_its_input_at_once_computes_what_diffusers_computes(sampling):
    reference_class = pytest.importorskip("diffusers.models.autoencoders.autoencoder_dc").AutoencoderDC
    torch.manual_seed(0)
    options = {"downsample_block_type": sampling[0], "upsample_block_type": sampling[1]}
    reference = reference_class(**EARLY_HALVING, **options).eval()
    model = MusicAutoencoder(AutoencoderConfig.from_dict({**EARLY_HALVING, **options})).eval()
    model.load_state_dict(reference.state_dict())
    mel = torch.randn(1, 2, 16, 24)
    latents = model.encoder(mel)
    torch.testing.assert_close(latents, reference.encoder(mel), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.decoder(latents), reference.decoder(latents), rtol=1e-5, atol=1e-5)


def test_a_config_survives_its_own_json():
    config = AutoencoderConfig.from_dict(EARLY_HALVING)
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("key", "value"), [("decoder_norm_types", "batch_norm"), ("decoder_act_fns", ["silu", "relu"])]
)
def test_a_config_for_another_network_is_refused_by_key(key, value):
    with pytest.raises(CheckpointError, match=key):
        AutoencoderConfig.from_dict({key: value})


def test_an_unknown_kind_of_block_is_refused_by_name():
    with pytest.raises(CheckpointError, match="DenseBlock"):
        MusicAutoencoder(AutoencoderConfig(encoder_block_types=("DenseBlock",) * 4))
