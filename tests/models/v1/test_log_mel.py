"""The log-mel spectrogram against the released implementation's numbers."""

import pytest
import torch

from acestep.models.v1.log_mel import LogMel, LogMelConfig, mel_filterbank
from reference_data import load_golden
from tiny_checkpoints import MEL, assert_close, load_vocoder


@pytest.mark.parametrize("stored", [True, False], ids=["stored filters", "computed filters"])
def test_the_spectrogram_is_the_released_one(stored):
    golden = load_golden("tiny/goldens/log_mel.safetensors")
    log_mel = load_vocoder()[1] if stored else LogMel()
    assert_close(log_mel.magnitudes(golden["in.wav_44k1"]), golden["out.linear_spectrogram"], MEL)
    assert_close(log_mel(golden["in.wav_44k1"]), golden["out.log_mel"], MEL)


def test_window_and_filters_come_from_the_checkpoint_where_it_has_them():
    log_mel = LogMel()
    rounded = {name: tensor.bfloat16() for name, tensor in log_mel.state_dict().items()}
    log_mel.load_state_dict(rounded)
    assert torch.equal(log_mel.mel_scale(), rounded["mel_scale.fb"].float())
    assert torch.equal(log_mel.spectrogram(), rounded["spectrogram.window"].float())


def test_a_cast_leaves_window_and_filters_in_full_precision():
    log_mel = LogMel()
    before = {name: tensor.clone() for name, tensor in log_mel.state_dict().items()}
    for name, tensor in log_mel.bfloat16().state_dict().items():
        assert torch.equal(tensor, before[name])


def test_each_filter_has_the_area_that_slaney_gave_it():
    config = LogMelConfig()
    bin_hz = config.sampling_rate / config.n_fft
    areas = mel_filterbank(config).sum(dim=0) * bin_hz
    # The narrow low filters fall between bins; above 1 kHz every triangle is sampled well.
    torch.testing.assert_close(areas[40:], torch.ones(88), rtol=0.12, atol=0)


def test_a_frame_is_a_hop_of_samples():
    assert LogMel()(torch.zeros(2, 3, 4096)).shape == (2, 3, 128, 8)
