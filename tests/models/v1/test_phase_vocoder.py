import math

import torch

from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from acestep.models.v1.codec import MusicCodec
from acestep.models.v1.log_mel import LogMel
from acestep.models.v1.phase_vocoder import PhaseVocoder, PhaseVocoderConfig, running_phases

RATE = 44100


def _tone(hz: float, seconds: float = 1.0) -> torch.Tensor:
    samples = round(seconds * RATE / 512) * 512
    return 0.3 * torch.sin(2 * math.pi * hz * torch.arange(samples) / RATE)


def test_a_steady_tone_keeps_its_pitch_and_does_not_hum_at_the_frame_rate():
    mel = LogMel()(_tone(1234.0))
    made = PhaseVocoder(PhaseVocoderConfig())(mel[None])[0, 0, 8192:-8192]
    spectrum = torch.fft.rfft(made * torch.hann_window(len(made))).abs()
    frequencies = torch.fft.rfftfreq(len(made), 1 / RATE)
    assert abs(frequencies[spectrum.argmax()] - 1234.0) < 12.0
    below = spectrum[frequencies < 900].max()
    assert 20 * math.log10(below / spectrum.max()) < -30


def test_the_mel_of_what_it_makes_is_the_mel_it_was_given():
    torch.manual_seed(0)
    audio = _tone(440.0) + _tone(1500.0) + 0.02 * torch.randn(len(_tone(440.0)))
    mel = LogMel()(audio)
    made = PhaseVocoder(PhaseVocoderConfig(iterations=8))(mel[None])[0, 0]
    error = (LogMel()(made) - mel)[:, 4:-4].abs()
    assert error.median() < 0.25


def test_more_rounds_bring_the_mel_closer():
    torch.manual_seed(0)
    mel = LogMel()(_tone(440.0) + 0.1 * torch.randn(len(_tone(440.0))))
    errors = [
        (LogMel()(PhaseVocoder(PhaseVocoderConfig(iterations=rounds))(mel[None])[0, 0]) - mel).abs().mean()
        for rounds in (0, 6)
    ]
    assert errors[1] < errors[0]


def test_a_peak_between_two_bins_advances_with_its_own_frequency():
    magnitude = torch.full((1, 9, 5), 1e-4)
    magnitude[:, 3:6] = torch.tensor([0.5, 1.0, 0.5]).view(1, 3, 1)
    phases = running_phases(magnitude, 0.25)
    steps = torch.remainder(phases[0, 4].diff(), 2 * math.pi)
    torch.testing.assert_close(steps, torch.full((4,), 2 * math.pi * 0.25 * 4 % (2 * math.pi)), atol=1e-4, rtol=0)


def test_a_codec_gives_it_the_whole_song_at_once():
    config = AutoencoderConfig(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        encoder_block_types=("ResBlock",) * 4, decoder_block_types=("ResBlock",) * 4,
        encoder_layers_per_block=(0, 1, 1, 1), decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4,
    )  # fmt: skip
    vocoder = PhaseVocoder(PhaseVocoderConfig(iterations=1))
    mel = LogMel()(_tone(600.0))[None, None].expand(1, 2, -1, -1)
    short, long = (MusicCodec(MusicAutoencoder(config), LogMel(), vocoder, window_frames=w) for w in (16, 4096))
    torch.testing.assert_close(short.vocode(mel), long.vocode(mel))
    assert short.vocode(mel).shape == (1, 2, mel.shape[-1] * 512)
