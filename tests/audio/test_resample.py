"""The released pipeline's resampler against its numbers."""

import numpy as np
import pytest

from acestep.audio.resample import resample_sinc, sinc_kernels
from reference_data import load_golden

MEL_AND_RESAMPLE = 1e-5
PAIRS = [(22050, 44100), (32000, 44100), (44100, 48000), (48000, 16000), (48000, 24000), (48000, 44100)]


@pytest.mark.parametrize(("from_rate", "to_rate"), PAIRS)
def test_the_samples_are_the_released_ones(from_rate, to_rate):
    golden = load_golden("tiny/goldens/resample.safetensors")
    expected = golden[f"out.{from_rate}_to_{to_rate}"].numpy()
    resampled = resample_sinc(golden["in.x"].numpy(), from_rate, to_rate)
    assert resampled.dtype == np.float32
    assert resampled.shape == expected.shape
    assert np.abs(resampled - expected).max() <= MEL_AND_RESAMPLE * np.abs(expected).max()


@pytest.mark.parametrize(
    ("from_rate", "to_rate", "step", "phases"), [(44100, 48000, 147, 160), (48000, 44100, 160, 147)]
)
def test_the_kernels_are_the_released_ones(from_rate, to_rate, step, phases):
    golden = load_golden("tiny/goldens/resample.safetensors")
    expected = golden[f"const.kernel_{from_rate}_to_{to_rate}_first4"][:, 0].numpy()
    kernels, _ = sinc_kernels(from_rate // 300, to_rate // 300)
    np.testing.assert_allclose(kernels[:4], expected, rtol=0, atol=1e-7)


def test_equal_rates_change_nothing():
    audio = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    assert resample_sinc(audio, 44100, 44100) is audio
