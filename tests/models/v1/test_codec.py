"""Waveform to latents and back against the released pipeline's numbers."""

import pytest
import torch

from acestep.audio.resample import resample_sinc
from acestep.errors import InputError
from acestep.models.v1.codec import MusicCodec
from reference_data import load_golden
from tiny_checkpoints import MEL, assert_close, load_autoencoder, load_codec, load_vocoder


@pytest.fixture(scope="module")
def codec() -> MusicCodec:
    return load_codec()


@torch.no_grad()
def test_recordings_become_the_released_latents(codec):
    golden = load_golden("tiny/goldens/dcae_encode.safetensors")
    audio = torch.from_numpy(resample_sinc(golden["in.wav_48k"].numpy(), 48000, 44100))
    assert_close(audio, golden["mid.resampled_44k1"], MEL)
    assert_close(codec.encode(audio), golden["out.latents"])
    assert_close(codec.encode(golden["in.wav_48k"][:1, :, :12288]), golden["out.latents_from_44k1"])
    slow = torch.from_numpy(resample_sinc(golden["in.wav_48k"][:1, :, :30000].numpy(), 32000, 44100))
    assert_close(codec.encode(slow), golden["out.latents_from_32k"])


def test_reported_lengths_are_the_released_ones(codec):
    golden = load_golden("tiny/goldens/dcae_encode.safetensors")
    lengths = [codec.latent_frames(int(samples), sample_rate=48000) for samples in golden["in.wav_lengths"]]
    assert lengths == golden["out.latent_lengths"].tolist()
    assert codec.latent_frames(30000, sample_rate=32000) == golden["out.latent_lengths_32k"].item()
    assert codec.latent_frames(12288) == golden["out.latent_lengths_44k1"].item()


@torch.no_grad()
def test_latents_become_the_released_recordings(codec):
    golden = load_golden("tiny/goldens/dcae_decode.safetensors")
    audio = codec.decode(golden["in.latents"])
    assert_close(audio, golden["out.wav_44k1"])
    assert_close(torch.from_numpy(resample_sinc(audio.numpy(), 44100, 48000)), golden["out.wav_48k"])


@torch.no_grad()
def test_overlapped_decoding_is_the_released_one(codec):
    golden = load_golden("tiny/goldens/decode_overlap.safetensors")
    audio = codec.decode(golden["in.latents"], overlap=True)[0]
    assert audio.shape == (2, golden["out.overlap_length"].item())
    assert_close(audio.square().mean(dim=1).sqrt(), golden["out.overlap_rms"])
    excerpts = [name for name in golden if name.startswith("out.overlap_wav[")]
    assert len(excerpts) == 6
    for name in excerpts:
        start, stop = map(int, name.removesuffix("]").split("[")[1].split(":"))
        assert_close(audio[:, start:stop], golden[name])


@torch.no_grad()
def test_a_long_mel_in_windows_sounds_as_it_does_at_once():
    torch.manual_seed(0)
    vocoder, log_mel = load_vocoder()
    mel = torch.randn(1, 2, 128, 150) - 4
    at_once = MusicCodec(load_autoencoder(), log_mel, vocoder).vocode(mel)
    in_windows = MusicCodec(load_autoencoder(), log_mel, vocoder, window_frames=40).vocode(mel)
    assert at_once.shape == (1, 2, 150 * 512)
    torch.testing.assert_close(in_windows, at_once, rtol=0, atol=2e-6)


def test_audio_without_samples_is_refused(codec):
    with pytest.raises(InputError, match="no samples"):
        codec.encode(torch.zeros(1, 2, 0))
