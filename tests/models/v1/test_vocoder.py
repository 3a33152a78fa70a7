"""The released vocoder's numbers, names and reach."""

import json

import torch

from acestep.models.v1.log_mel import MEL_PREFIX, LogMel
from acestep.models.v1.vocoder import Vocoder, VocoderConfig
from reference_data import load_golden, load_json
from tiny_checkpoints import assert_close, load_vocoder


def test_every_stage_gives_the_released_states():
    model, golden = load_vocoder()[0], load_golden("tiny/goldens/vocoder.safetensors")
    parts = [name for name in golden if name.startswith("mid.")]
    seen = {}
    for name in parts:
        module = model.get_submodule(name.removeprefix("mid."))
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    assert_close(model(golden["in.mel"]), golden["out.wav"])
    for name in parts:
        assert_close(seen[name], golden[name])


def test_folding_the_norms_keeps_the_sound_and_drops_the_parts():
    model, golden = load_vocoder()[0], load_golden("tiny/goldens/vocoder.safetensors")
    model.fold_weight_norm()
    assert not any("weight_g" in name for name in model.state_dict())
    assert_close(model(golden["in.mel"]), golden["out.wav"])


def test_vocoder_and_log_mel_together_have_the_released_tensors():
    with torch.device("meta"):
        model = Vocoder(VocoderConfig.from_dict(load_json("manifests/configs/music_vocoder/config.json")))
    manifest = load_json("manifests/music_vocoder.json")["tensors"]
    owned = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    owned |= {MEL_PREFIX + name: list(tensor.shape) for name, tensor in LogMel().state_dict().items()}
    assert owned == {name: entry["shape"] for name, entry in manifest.items()}


def test_no_sample_depends_on_a_frame_beyond_the_halo():
    model, halo = load_vocoder()[0], load_vocoder()[0].halo_frames
    mel = torch.randn(1, 128, 2 * halo + 1, generator=torch.Generator().manual_seed(0)) - 4
    far = torch.cat([torch.randn(1, 128, 9), mel, torch.randn(1, 128, 9)], dim=-1)
    middle = slice(halo * 512, (halo + 1) * 512)
    within = model(far)[..., 9 * 512 : -9 * 512]
    torch.testing.assert_close(within[..., middle], model(mel)[..., middle], rtol=0, atol=1e-6)


def test_a_config_survives_its_own_json():
    config = VocoderConfig(depths=(1, 1), dims=(8, 16))
    assert VocoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
