"""Cutting a long input into windows changes no output."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from acestep.models.v1.windows import in_windows


@pytest.mark.parametrize("length", [1, 7, 8, 30, 33])
def test_a_convolution_in_windows_is_the_convolution(length):
    conv = nn.Conv1d(2, 3, 5, padding=2)
    x = torch.randn(1, 2, length)
    torch.testing.assert_close(in_windows(conv, x, window=8, halo=2), conv(x))


@pytest.mark.parametrize("window", [8, 10])
def test_a_strided_convolution_keeps_its_phase(window):
    conv = nn.Conv1d(2, 3, 3, stride=4, padding=1)
    x = torch.randn(1, 2, 64)
    torch.testing.assert_close(in_windows(conv, x, window=window, halo=1, scale=Fraction(1, 4)), conv(x))


def test_a_halo_too_small_would_be_heard():
    conv = nn.Conv1d(1, 1, 5, padding=2)
    x = torch.randn(1, 1, 30)
    assert not torch.allclose(in_windows(conv, x, window=8, halo=1), conv(x))
