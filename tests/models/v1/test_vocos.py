"""The small vocoder: what its inverse transform promises, and that the net can learn."""

import json

import pytest
import torch

from acestep.models.v1.vocos import VocosConfig, VocosVocoder, inverse_stft

SMALL = VocosConfig(n_mels=16, dim=24, layers=2, intermediate_dim=48, n_fft=256, hop_length=64)


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 64), (256, 128), (2048, 512)])
def test_the_inverse_transform_gives_back_what_the_transform_took(n_fft, hop):
    audio = torch.randn(2, 12 * hop, generator=torch.Generator().manual_seed(0))
    side = (n_fft - hop) // 2
    window = torch.hann_window(n_fft)
    padded = torch.nn.functional.pad(audio, (side, side))
    spectrum = torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)
    torch.testing.assert_close(inverse_stft(spectrum, window, hop), audio, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 37])
def test_every_mel_frame_becomes_one_hop_of_samples(frames):
    assert VocosVocoder(SMALL)(torch.randn(3, 16, frames)).shape == (3, 1, frames * 64)


def test_bfloat16_weights_still_invert_in_float32():
    torch.manual_seed(0)
    mel = torch.randn(1, 16, 20)
    model = VocosVocoder(SMALL)
    expected = model(mel)
    audio = model.bfloat16()(mel)
    assert audio.dtype == torch.float32
    assert (audio - expected).norm() < 0.1 * expected.norm()


def test_it_learns_one_sound_in_a_few_steps():
    torch.manual_seed(0)
    model, mel = VocosVocoder(SMALL), torch.randn(1, 16, 8)
    target = torch.sin(torch.arange(8 * 64) * 0.2).view(1, 1, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (model(mel) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_a_config_survives_its_own_json():
    stored = json.loads(json.dumps(SMALL.to_dict()))
    assert stored["_class_name"] == "VocosVocoder"
    assert VocosConfig.from_dict(stored) == SMALL
