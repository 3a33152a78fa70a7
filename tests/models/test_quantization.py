import copy
import io
import statistics
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acestep.errors import CheckpointError, InputError
from acestep.families import Family
from acestep.families.checkpoint import fingerprint
from acestep.families.loading import load_family
from acestep.lora import Adapter, Factors, attach, attach_trainable, detach, find_targets, module_shapes, set_weights
from acestep.models.quantization import (
    Quantization,
    QuantizedLinear,
    nf4_levels,
    quantization_of,
    quantize_int8,
    quantize_network,
    quantize_nf4,
)
from acestep.models.v1.convolution import PointwiseConv1d
from tiny_checkpoints import load_transformer

KINDS: tuple[Quantization, ...] = ("int8", "nf4")
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# QLoRA's appendix E.
PUBLISHED_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class Blocks(nn.Module):
    """Two blocks of a linear layer and a one-frame convolution, between layers that stand alone."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "linear": nn.Linear(width, 2 * width),
                    "conv": PointwiseConv1d(2 * width, width, kernel_size=1, bias=False),
                    "wide": nn.Conv1d(width, width, kernel_size=3, padding=1),
                    "small": nn.Linear(width, 8),
                    "tokens": nn.Embedding(100, width),
                }
            )
            for _ in range(2)
        )
        self.last = nn.Linear(width, width)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        for block in self.blocks:
            x = x + block["wide"](block["conv"](block["linear"](x).transpose(1, 2))).transpose(1, 2)
        last: Tensor = self.last(x)
        return last


def random_weight(*shape: int, seed: int = 0) -> Tensor:
    """Rows of very different sizes, one of them empty."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-4, 2, shape[0]).view(-1, *(1 for _ in shape[1:]))
    weight = torch.randn(shape, generator=generator) * sizes
    weight[1] = 0
    return weight


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def cosine(actual: Tensor, expected: Tensor) -> float:
    return float(F.cosine_similarity(actual.flatten(), expected.flatten(), dim=0))


def test_int8_rounds_each_output_channel_to_255_steps():
    weight = random_weight(24, 40)
    made = quantize_int8(weight).dequantize(torch.float32).double().numpy()
    for row, original in zip(made, weight.double().numpy(), strict=True):
        largest = np.abs(original).max()
        scale = float(torch.tensor(largest / 127).bfloat16()) if largest else 1.0
        np.testing.assert_allclose(row, np.clip(np.rint(original / scale), -127, 127) * scale, rtol=1e-6, atol=0)
        assert np.abs(row - original).max() <= 0.51 * scale


def test_nf4_takes_the_nearest_level_of_each_block():
    weight = random_weight(24, 128)
    normal = statistics.NormalDist()
    upper = [normal.inv_cdf(0.5 + (0.9677083 - 0.5) * (8 - i) / 8) for i in range(8)]
    lower = [normal.inv_cdf(0.5 + (0.9677083 - 0.5) * (7 - i) / 7) for i in range(7)]
    levels = np.array(sorted([*(-value for value in lower), 0.0, *upper])) / upper[0]
    made = quantize_nf4(weight).dequantize(torch.float32).double().numpy().reshape(-1, 64)
    for block, original in zip(made, weight.double().numpy().reshape(-1, 64), strict=True):
        scale = float(torch.tensor(np.abs(original).max()).bfloat16()) or 1.0
        nearest = np.abs(original[:, None] / scale - levels).argmin(axis=1)
        np.testing.assert_allclose(block, levels[nearest] * scale, rtol=1e-6, atol=0)


def test_the_levels_are_those_that_the_paper_prints():
    torch.testing.assert_close(nf4_levels(), torch.tensor(PUBLISHED_LEVELS, dtype=torch.float64), rtol=0, atol=2e-6)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_nf4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_dequantised_quantises_to_itself(quantize, dtype):  # type: ignore[no-untyped-def]
    once = quantize(random_weight(24, 128, 1).to(dtype))
    weight = once.dequantize(torch.float32)
    assert weight.shape == (24, 128, 1)
    torch.testing.assert_close(quantize(weight).dequantize(torch.float32), weight, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_network_computes_with_the_weights_that_it_shows(kind: Quantization):
    torch.manual_seed(0)
    plain, quantized = Blocks(), Blocks()
    quantize_network(quantized, kind)
    plain.load_state_dict(_shown(quantized))
    inputs = [torch.randn(2, 5, 64, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [network(x) for network, x in zip((plain, quantized), inputs, strict=True)]
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: Quantization):
    torch.manual_seed(0)
    network = nn.ModuleList([nn.Linear(16, 8).double()]).requires_grad_(False)
    quantize_network(network, kind, smallest=1)
    network[0].bias.requires_grad_(True)
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, bias: network[0](x), (x, network[0].bias))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_as_large_as_the_weight_is_kept_for_the_backward_pass(kind: Quantization):
    network = Blocks(256)
    quantize_network(network, kind)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        network.blocks[0]["linear"](torch.randn(2, 256, requires_grad=True))
    assert kept
    assert all(tensor.element_size() == 1 for tensor in kept if tensor.numel() >= 512 * 256 // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_decides_what_is_computed_in(kind: Quantization):
    network = Blocks()
    quantize_network(network, kind)
    layer, x = network.blocks[0]["linear"], torch.randn(2, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_casting_to_bfloat16_and_back_changes_no_bit(kind: Quantization):
    network = Blocks()
    quantize_network(network, kind)
    before = _shown(network)
    network.bfloat16()
    assert network.blocks[0]["linear"].weight.dtype == torch.bfloat16
    network.float()
    for name, tensor in _shown(network).items():
        if ".linear.weight" in name or ".conv.weight" in name:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_network_is_saved_loaded_and_copied_as_any_other(kind: Quantization):
    network, other = Blocks(), Blocks()
    for each in (network, other):
        quantize_network(each, kind)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    x = torch.randn(2, 3, 64)
    for copied in (other, copy.deepcopy(network)):
        torch.testing.assert_close(copied(x), network(x), rtol=0, atol=0)


def test_only_large_matrices_of_repeated_blocks_are_quantised():
    network = Blocks()
    report = quantize_network(network, "int8")
    found = {
        name for name, module in network.named_modules() if quantization_of(module) and not list(module.children())
    }
    assert found == {f"blocks.{block}.{layer}" for block in range(2) for layer in ("linear", "conv")}
    assert report.layers == 4
    assert report.bytes_before == 4 * 64 * 128 * 4
    assert report.bytes_after < report.bytes_before / 3


def test_a_transformer_keeps_what_stands_outside_its_blocks():
    network = load_transformer().requires_grad_(False)
    outside = {name: id(module) for name, module in network.named_modules() if "blocks." not in name}
    quantize_network(network, "nf4", smallest=64)
    kept = {name for name, module in network.named_modules() if outside.get(name) == id(module)}
    assert {"final_layer.linear", "t_block.1", "lyric_embs", "speaker_embedder", "proj_in.early_conv_layers.2"} <= kept
    assert isinstance(network.transformer_blocks[0].attn.to_q, QuantizedLinear)


def test_never_more_than_one_weight_is_there_twice(monkeypatch: pytest.MonkeyPatch):
    network = nn.ModuleList(nn.Linear(64, 64) for _ in range(5)).requires_grad_(False)
    weights = [weakref.ref(layer.weight) for layer in network]
    alive = []

    def counting(weight: Tensor):  # type: ignore[no-untyped-def]
        alive.append(sum(reference() is not None for reference in weights))
        return quantize_int8(weight)

    monkeypatch.setitem(quantize_network.__globals__["QUANTIZERS"], "int8", counting)
    quantize_network(network, "int8")
    # The one before may still be held by the loop's own variables.
    assert all(count <= len(weights) - done + 1 for done, count in enumerate(alive))
    assert all(reference() is None for reference in weights)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda network: quantize_network(network, "nf4"), "nf4 already"),
        (lambda network: network.requires_grad_(True), "freeze"),
        (
            lambda network: attach_trainable(network, ["blocks.0.linear"], rank=2, alpha=2.0),
            "detach it",
        ),
    ],
)
def test_a_network_that_cannot_be_quantised_is_refused(spoil, message):  # type: ignore[no-untyped-def]
    network = Blocks()
    spoil(network)
    with pytest.raises(InputError, match=message):
        quantize_network(network, "int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_with_nan_in_it_is_refused_by_name(value: float):
    network = Blocks()
    network.blocks[1]["conv"].weight[3, 5] = value
    with pytest.raises(CheckpointError, match=r"blocks\.1\.conv"):
        quantize_network(network, "nf4")


def test_an_unknown_kind_and_a_network_without_blocks_are_refused():
    with pytest.raises(InputError, match="int8, nf4"):
        quantize_network(Blocks(), "int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no weights"):
        quantize_network(nn.Sequential(nn.Linear(64, 64)).requires_grad_(False), "int8")


def nano_velocity(family: Family) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 8, 16, 60, generator=generator)
    conditioning = family.encode_prompt(["lofi, mellow, 82 bpm", "techno"], ["", ""])
    return family.velocity(latents, torch.tensor([0.3, 0.8]), conditioning)


def lora_gradients(family: Family) -> Tensor:
    modules = find_targets(module_shapes(family.network), TARGETS, family.lora_aliases)
    adapter = attach_trainable(family.network, modules, rank=4, alpha=4.0, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in adapter.parameters().items():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    nano_velocity(family).square().mean().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in adapter.parameters().values()])
    adapter.detach()
    return gradients


@pytest.fixture(scope="module")
def nano() -> Family:
    return load_family("nano", device="cpu")


@pytest.mark.parametrize(("kind", "most", "least_cosine"), [("int8", 0.01, 0.9995), ("nf4", 0.1, 0.97)])
def test_nano_hardly_notices(nano: Family, kind: Quantization, most: float, least_cosine: float):
    quantized = load_family("nano", device="cpu", quantization=kind)
    assert quantization_of(quantized.network) == kind
    with torch.no_grad():
        assert 0 < relative_error(nano_velocity(quantized), nano_velocity(nano)) < most
    assert cosine(lora_gradients(quantized), lora_gradients(nano)) > least_cosine


def test_the_fingerprint_stays_that_of_the_base(nano: Family):
    quantized = load_family("nano", device="cpu", quantization="nf4")
    assert quantized.fingerprint() == nano.fingerprint()
    held = fingerprint(quantized.network)
    lora_gradients(quantized)
    assert fingerprint(quantized.network) == held


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_come_and_go_on_a_quantised_base(kind: Quantization):
    family = load_family("nano", device="cpu", quantization=kind)
    network, shapes = family.network, module_shapes(load_family("nano", device="cpu").network)
    assert module_shapes(network) == shapes
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in find_targets(shapes, TARGETS, family.lora_aliases):
        out, into, *kernel = shapes[name]
        a = torch.randn(4, into, *kernel, generator=generator)
        factors[name] = Factors(a, 0.02 * torch.randn(out, 4, *kernel, generator=generator))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules = dict(network.named_modules())
    with torch.no_grad():
        bare = nano_velocity(family)
        attach(network, Adapter(factors), name="style")
        assert relative_error(nano_velocity(family), bare) > 0.01
        set_weights(network, {"style": 0.0})
        torch.testing.assert_close(nano_velocity(family), bare, rtol=0, atol=0)
        detach(network, "style")
        torch.testing.assert_close(nano_velocity(family), bare, rtol=0, atol=0)
    assert dict(network.named_modules()) == modules
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def _shown(network: nn.Module) -> dict[str, Tensor]:
    """A state dict with each quantised weight as the float weight that it stands for."""
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith((".codes", ".scales"))}
    shown = {f"{name}.weight": module.weight for name, module in network.named_modules() if hasattr(module, "codes")}
    return {**state, **{name: weight.detach() for name, weight in shown.items()}}
