import torch
from torch import nn

from acestep.models.compilation import compiled_blocks


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x).relu()
        out: torch.Tensor = self.head(x)
        return out


def test_blocks_compute_the_same_compiled_and_are_plain_again_afterwards():
    torch.manual_seed(0)
    network, x = Network(), torch.randn(5, 4)
    expected = network(x)
    # Tracing without generating code: what a compiler makes of it is the compiler's to test.
    with compiled_blocks(network, backend="aot_eager"):
        assert all(block._compiled_call_impl is not None for block in network.blocks)
        assert network.head._compiled_call_impl is None
        found = network(x)
        found.sum().backward()
    torch.testing.assert_close(found, expected)
    assert network.blocks[0].weight.grad is not None
    assert all(block._compiled_call_impl is None for block in network.blocks)
