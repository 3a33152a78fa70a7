"""The channels-last convolutions compute what PyTorch's own do."""

import pytest
import torch
from torch import nn

from acestep.models.v1.convolution import DepthwiseConv1d, PointwiseConv1d


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("ours", "arguments"),
    [
        (PointwiseConv1d, {"in_channels": 6, "out_channels": 10, "kernel_size": 1}),
        (PointwiseConv1d, {"in_channels": 6, "out_channels": 4, "kernel_size": 1, "bias": False}),
        (DepthwiseConv1d, {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 6}),
    ],
)
def test_it_is_the_plain_convolution_in_another_layout(ours, arguments, transposed):
    torch.manual_seed(0)
    layer, plain = ours(**arguments), nn.Conv1d(**arguments)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 7, 6).transpose(1, 2) if transposed else torch.randn(2, 6, 7)
    torch.testing.assert_close(layer(x), plain(x))
