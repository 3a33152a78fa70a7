"""The inverse transform against the transform that it inverts."""

import pytest
import torch

from acestep.models.v1.inverse_stft import inverse_stft


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 64), (256, 128), (2048, 512)])
def test_the_inverse_transform_gives_back_what_the_transform_took(n_fft, hop):
    audio = torch.randn(2, 12 * hop, generator=torch.Generator().manual_seed(0))
    side = (n_fft - hop) // 2
    window = torch.hann_window(n_fft)
    padded = torch.nn.functional.pad(audio, (side, side))
    spectrum = torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)
    torch.testing.assert_close(inverse_stft(spectrum, window, hop), audio, rtol=1e-4, atol=1e-5)
