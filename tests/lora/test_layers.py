"""PEFT's layers are the independent reference for ours."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from acestep.errors import AdapterError
from acestep.lora import Adapter, Factors, attach, attach_trainable, module_shapes, set_weights
from acestep.lora.layers import changed_norms, dense_weight, weight_shape


class Small(nn.Module):
    """A linear layer and convolutions of one and two axes, with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.conv = nn.Conv1d(4, 8, kernel_size=3, padding=1, stride=2)
        self.picture = nn.Conv2d(8, 5, kernel_size=(1, 3), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, 6) -> (batch, 5, 1, other frames)"""
        convolved = self.conv(self.linear(x).transpose(1, 2))
        pictured: Tensor = self.picture(convolved.unsqueeze(2))
        return pictured


MODULES = ("linear", "conv", "picture")


@pytest.fixture
def ours() -> Small:
    torch.manual_seed(0)
    return Small().requires_grad_(False)


def copy_of(network: Small) -> Small:
    copied = Small().requires_grad_(False)
    copied.load_state_dict(network.state_dict())
    return copied


def random_values(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    noise = {name: torch.randn(p.shape, generator=generator) for name, p in parameters.items()}
    return {
        name: parameters[name].detach() * (1 + 0.3 * value) if "magnitude" in name else 0.4 * value
        for name, value in noise.items()
    }


def in_peft(network: Small, values: dict[str, Tensor], **config: object) -> dict[str, nn.Parameter]:
    """PEFT's layers with these values on the network -> their parameters by our names."""
    inject_adapter_in_model(LoraConfig(target_modules=list(MODULES), **config), network)  # type: ignore[arg-type]
    theirs = {
        name.replace(".default", "").replace("vector.weight", "vector"): parameter
        for name, parameter in network.named_parameters()
        if ".lora_" in name
    }
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(values[name].view(parameter.shape))
    return theirs


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("rslora", [False, True])
def test_outputs_and_gradients_are_pefts(ours: Small, dora: bool, rslora: bool):
    theirs, x = copy_of(ours), torch.randn(2, 9, 6)
    trained = attach_trainable(
        ours, MODULES, rank=2, alpha=3, ranks={"conv": 3}, alphas={"conv": 3.0}, dora=dora, rslora=rslora
    )
    values = random_values(trained.parameters())
    trained.load_parameters(values)
    peft_parameters = in_peft(
        theirs, values, r=2, lora_alpha=3, rank_pattern={"conv": 3}, use_dora=dora, use_rslora=rslora
    )
    torch.testing.assert_close(ours(x), theirs(x))
    for network in (ours, theirs):
        network(x).square().sum().backward()
    for name, parameter in trained.parameters().items():
        expected = peft_parameters[name].grad
        assert expected is not None
        torch.testing.assert_close(parameter.grad, expected.view(parameter.shape), rtol=1e-4, atol=1e-5)


def test_a_new_dora_is_the_base_bit_for_bit(ours: Small):
    x = torch.randn(2, 9, 6)
    base = ours(x)
    attach_trainable(ours, MODULES, rank=2, alpha=3, dora=True)
    assert torch.equal(ours(x), base)


@pytest.mark.parametrize("strength", [1.0, 0.4, -0.5])
def test_a_dora_generates_as_it_trained_and_its_strength_is_linear_in_the_change(ours: Small, strength: float):
    x = torch.randn(2, 9, 6)
    trained = attach_trainable(ours, MODULES, rank=2, alpha=3, dora=True)
    trained.load_parameters(random_values(trained.parameters()))
    in_training, adapter = ours(x), trained.adapter()
    trained.detach()
    folded = copy_of(ours)
    with torch.no_grad():
        for module, factors in adapter.factors.items():
            weight = folded.get_submodule(module).weight
            weight.add_(strength * factors.delta(weight))
    attach(ours, adapter, name="a", weight=strength)
    torch.testing.assert_close(ours(x), folded(x))
    set_weights(ours, {"a": 1.0})
    torch.testing.assert_close(ours(x), in_training)


def test_a_dora_and_a_lora_add_their_changes(ours: Small):
    x = torch.randn(2, 5, 6)
    trained = attach_trainable(ours, ("linear",), rank=2, alpha=3, dora=True)
    trained.load_parameters(random_values(trained.parameters()))
    dora = trained.adapter()
    trained.detach()
    lora = Adapter({"linear": Factors(torch.randn(3, 6), torch.randn(4, 3))})
    base = ours.linear(x)
    weight = ours.linear.weight.clone()
    attach(ours, dora, name="dora", weight=0.5)
    attach(ours, lora, name="lora", weight=2.0)
    change = 0.5 * dora.factors["linear"].delta(weight) + 2 * lora.factors["linear"].delta()
    torch.testing.assert_close(ours.linear(x), base + x @ change.T)


def test_a_dora_without_its_base_has_no_change_to_tell():
    with pytest.raises(AdapterError, match="base"):
        Factors(torch.ones(1, 3), torch.ones(2, 1), torch.ones(2)).delta()


def test_the_norms_of_a_changed_weight_need_no_sum():
    generator = torch.Generator().manual_seed(1)
    weight, a, b = (torch.randn(shape, generator=generator) for shape in ((7, 4, 3), (2, 4, 3), (7, 2, 1)))
    expected = (weight + Factors(a, b).delta()).flatten(1).norm(dim=1)
    torch.testing.assert_close(changed_norms(weight, a, b), expected)


def test_a_row_of_zeros_gives_no_nan():
    network = nn.Sequential(nn.Linear(3, 2))
    nn.init.zeros_(network[0].weight)
    trained = attach_trainable(network, ["0"], rank=1, alpha=1, dora=True)
    network(torch.randn(4, 3)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in trained.parameters().values())


class PackedLinear(nn.Linear):
    """Stores int8 and a scale a row, as quantised layers do; its weight is no weight of that dtype or shape."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.bias = linear.bias
        scales = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        packed = (linear.weight.detach() / scales).round().to(torch.int8)
        self.weight = nn.Parameter(packed.view(-1, 2), requires_grad=False)
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(self.out_features, self.in_features) * self.scales
        return F.linear(x, weight.to(x.dtype), self.bias)


@pytest.mark.parametrize("dora", [False, True])
def test_a_quantised_base_trains_and_generates_as_its_dequantised_self(dora: bool):
    torch.manual_seed(0)
    packed = nn.Sequential(PackedLinear(nn.Linear(6, 4)))
    dense = nn.Sequential(nn.Linear(6, 4))
    with torch.no_grad():
        dense[0].weight.copy_(packed[0].weight.view(4, 6) * packed[0].scales)
        dense[0].bias.copy_(packed[0].bias)
    assert module_shapes(packed) == {"0": (4, 6)}
    x, outputs, adapters = torch.randn(3, 6), [], []
    for network in (packed, dense):
        trained = attach_trainable(network, ["0"], rank=2, alpha=3, dora=dora)
        trained.load_parameters(random_values(trained.parameters()))
        outputs.append(network(x))
        adapters.append(trained.adapter())
        trained.detach()
    torch.testing.assert_close(outputs[0], outputs[1])
    attach(packed, adapters[0], name="a")
    torch.testing.assert_close(packed(x), outputs[0])


def test_the_weight_of_a_layer_that_hides_it_is_asked_for_by_the_identity():
    torch.manual_seed(0)
    packed = PackedLinear(nn.Linear(6, 4))
    assert weight_shape(packed) == (4, 6)
    torch.testing.assert_close(dense_weight(packed), packed.weight.view(4, 6) * packed.scales)


@pytest.mark.parametrize("dora", [False, True])
def test_under_autocast_the_adapter_costs_no_precision_of_its_norms(ours: Small, dora: bool):
    x = torch.randn(2, 9, 6)
    trained = attach_trainable(ours, MODULES, rank=2, alpha=3, dora=dora)
    with torch.autocast("cpu", torch.bfloat16):
        base = ours(x)
    trained.load_parameters(random_values(trained.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        low = ours(x)
    assert low.dtype == base.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), ours(x), rtol=0.05, atol=0.1)


def test_a_layer_that_is_no_product_cannot_be_adapted():
    with pytest.raises(AdapterError, match="LayerNorm"):
        weight_shape(nn.LayerNorm(3))
