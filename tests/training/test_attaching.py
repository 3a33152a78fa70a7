import pytest
import torch

from acestep.training.attaching import attached
from small_family import SmallFamily

FORM = {"rank": 2, "alpha": 2.0}
TARGETS = ["transformer_blocks.0.attn.to_q"]


@pytest.mark.parametrize("before", [False, True])
def test_after_the_block_the_network_is_what_it_was_an_error_in_it_included(before: bool):
    network = SmallFamily().network
    network.gradient_checkpointing = before
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def fail_inside() -> None:
        with attached(network, TARGETS, form=FORM, gradient_checkpointing=not before) as adapter:
            assert network.gradient_checkpointing is not before
            assert sum(parameter.numel() for parameter in adapter.parameters().values()) > 0
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail_inside()
    assert network.gradient_checkpointing is before
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
