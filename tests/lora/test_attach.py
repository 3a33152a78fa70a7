from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from acestep.errors import AdapterError
from acestep.lora import (
    Adapter,
    Factors,
    attach,
    attach_trainable,
    attached_names,
    detach,
    find_targets,
    module_shapes,
    read_adapter,
    set_weights,
    write_adapter,
)
from acestep.models.v1.transformer import ACEStepTransformer
from reference_data import load_golden, reference_path
from tiny_checkpoints import assert_close, encode, load_transformer

TARGETS = ("speaker_embedder", "linear_q", "linear_k", "linear_v", "to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.inverted_conv.conv", "ff.point_conv.conv")


@pytest.fixture
def network() -> ACEStepTransformer:
    return load_transformer().requires_grad_(False)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_golden("tiny/goldens/lora.safetensors")


def forward(network: ACEStepTransformer, golden: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        velocity: Tensor = network(golden["in.hidden_states"], golden["in.timestep"], encode(network, golden))
    return velocity


def random_adapter(network: nn.Module, targets: tuple[str, ...], rank: int, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    shapes = module_shapes(network)
    factors = {}
    for name in find_targets(shapes, targets):
        out, into, *kernel = shapes[name]
        a = torch.randn(rank, into, *kernel, generator=generator)
        factors[name] = Factors(a, 0.05 * torch.randn(out, rank, *(1 for _ in kernel), generator=generator))
    return Adapter(factors)


FILES = (
    "plain_no_metadata",
    "plain_with_metadata",
    "rslora_with_metadata",
    "mixed_rank_no_metadata",
    "mixed_rank_with_metadata",
)


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("name", FILES)
def test_raw_factors_sound_as_the_official_program_plays_them(
    network: ACEStepTransformer, golden: dict[str, Tensor], name: str, weight: float
):
    adapter = read_adapter(reference_path(f"tiny/lora/{name}"), module_shapes(network), raw_scale=True)
    attach(network, adapter, name="official", weight=weight)
    assert_close(forward(network, golden), golden[f"out.{name}.weight{weight}"])


@pytest.mark.parametrize("name", ["plain", "rslora"])
def test_weight_one_means_as_trained_where_the_file_names_its_alpha(
    network: ACEStepTransformer, golden: dict[str, Tensor], name: str
):
    attach(network, read_adapter(reference_path(f"tiny/lora/{name}_with_metadata"), module_shapes(network)), name="a")
    assert_close(forward(network, golden), golden[f"out.{name}.train_time_forward"])


def test_what_we_write_sounds_the_same_raw_and_as_trained(network: ACEStepTransformer, golden, tmp_path):
    trained = read_adapter(reference_path("tiny/lora/rslora_with_metadata"), module_shapes(network))
    written = read_adapter(write_adapter(tmp_path / "a", trained), module_shapes(network), raw_scale=True)
    attach(network, written, name="a")
    assert_close(forward(network, golden), golden["out.rslora.train_time_forward"])


def test_detaching_puts_the_very_modules_and_bits_back(network: ACEStepTransformer, golden: dict[str, Tensor]):
    modules = dict(network.named_modules())
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributes = set(vars(network))
    for seed, name in enumerate(("first", "second.one")):
        attach(network, random_adapter(network, TARGETS + FEED_FORWARD, 2, seed), name=name)
    forward(network, golden)
    assert attached_names(network) == ["first", "second.one"]
    detach(network, "first")
    detach(network, "second.one")
    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert dict(network.named_modules()) == modules
    assert set(vars(network)) == attributes


def test_several_adapters_are_the_exact_sum_of_their_deltas(network: ACEStepTransformer, golden: dict[str, Tensor]):
    first = random_adapter(network, ("to_q", *FEED_FORWARD), 2, seed=1)
    second = random_adapter(network, ("to_q", "to_v"), 3, seed=2)
    attach(network, first, name="first", weight=0.7)
    attach(network, second, name="second", weight=-0.3)
    together = forward(network, golden)
    detach(network, "first")
    detach(network, "second")
    with torch.no_grad():
        for weight, adapter in ((0.7, first), (-0.3, second)):
            for module, factors in adapter.factors.items():
                network.get_submodule(module).weight.add_(weight * factors.delta())
    assert_close(together, forward(network, golden))


def test_detaching_one_leaves_the_others_sound(network: ACEStepTransformer, golden: dict[str, Tensor]):
    first, second = (random_adapter(network, ("to_q", "to_v"), 2, seed) for seed in (1, 2))
    attach(network, second, name="second", weight=0.5)
    alone = forward(network, golden)
    attach(network, first, name="first")
    detach(network, "first")
    torch.testing.assert_close(forward(network, golden), alone, rtol=0, atol=0)


def test_weight_zero_is_the_base_bit_for_bit_and_weights_change_in_place(network, golden):
    base = forward(network, golden)
    adapter = random_adapter(network, ("to_q",), 2, seed=1)
    attach(network, adapter, name="a", weight=0.5)
    half = forward(network, golden)
    set_weights(network, {"a": 0.0})
    assert torch.equal(forward(network, golden), base)
    set_weights(network, {"a": 0.5})
    assert torch.equal(forward(network, golden), half)
    assert not torch.equal(half, base)


def test_names_seen_through_an_adapter_are_the_models_own(network: ACEStepTransformer):
    shapes = module_shapes(network)
    attach(network, random_adapter(network, TARGETS, 2, seed=1), name="a")
    assert module_shapes(network) == shapes


def test_a_taken_name_an_unknown_name_and_another_base_are_refused(network: ACEStepTransformer):
    adapter = random_adapter(network, ("to_q",), 2, seed=1)
    attach(network, adapter, name="a")
    with pytest.raises(AdapterError, match="already"):
        attach(network, adapter, name="a")
    with pytest.raises(AdapterError, match="there are: a"):
        detach(network, "b")
    with pytest.raises(AdapterError, match="there are: a"):
        set_weights(network, {"b": 1.0})
    with pytest.raises(AdapterError, match="another base"):
        attach(nn.Sequential(nn.Linear(3, 3)), adapter, name="a")


def test_a_new_adapter_starts_at_the_base_and_depends_on_its_seed_alone(network, golden):
    base = forward(network, golden)
    modules = find_targets(module_shapes(network), TARGETS)
    values = []
    for _ in range(2):
        torch.randn(3)  # the global random state must not matter
        trained = attach_trainable(network, modules, rank=4, alpha=8, generator=torch.Generator().manual_seed(3))
        assert torch.equal(forward(network, golden), base)
        values.append({name: parameter.detach().clone() for name, parameter in trained.parameters().items()})
        trained.detach()
    assert all(torch.equal(tensor, values[1][name]) for name, tensor in values[0].items())


def test_only_the_adapter_learns_and_the_base_gets_its_flags_back():
    network = load_transformer()
    flags = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    trained = attach_trainable(network, find_targets(module_shapes(network), ("to_q",)), rank=2, alpha=2)
    learning = {id(p) for p in network.parameters() if p.requires_grad}
    assert learning == {id(p) for p in trained.parameters().values()}
    trained.detach()
    assert {name: parameter.requires_grad for name, parameter in network.named_parameters()} == flags


def test_a_trained_state_read_as_an_adapter_computes_the_same(network: ACEStepTransformer, golden: dict[str, Tensor]):
    modules = find_targets(module_shapes(network), TARGETS)
    trained = attach_trainable(network, modules, rank=4, alpha=8, rslora=True)
    trained.load_parameters(load_golden("tiny/lora/plain_no_metadata/pytorch_lora_weights.safetensors"))
    in_training = forward(network, golden)
    adapter = trained.adapter()
    trained.detach()
    attach(network, adapter, name="a")
    assert_close(forward(network, golden), in_training)


def test_dropout_acts_on_the_adapter_alone_and_only_while_asked(network: ACEStepTransformer, golden: dict[str, Tensor]):
    modules = find_targets(module_shapes(network), TARGETS)
    trained = attach_trainable(network, modules, rank=4, alpha=8, dropout=0.5)
    base = forward(network, golden)
    trained.drop_out(True)
    assert torch.equal(forward(network, golden), base)  # B is zero, and nothing else may drop out
    trained.load_parameters(load_golden("tiny/lora/plain_no_metadata/pytorch_lora_weights.safetensors"))
    assert not torch.equal(forward(network, golden), forward(network, golden))
    trained.drop_out(False)
    assert torch.equal(forward(network, golden), forward(network, golden))


@pytest.mark.parametrize("rslora", [False, True])
def test_a_modules_own_rank_keeps_the_ratio_of_alpha_unless_it_has_its_own(network: ACEStepTransformer, rslora: bool):
    first, second, third = find_targets(module_shapes(network), ("to_q",))[:3]
    trained = attach_trainable(
        network,
        (first, second, third),
        rank=4,
        alpha=8,
        rslora=rslora,
        ranks={second: 16, third: 16},
        alphas={third: 4},
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in trained.parameters().items()}
    width = module_shapes(network)[first][1]
    assert shapes[f"{first}.lora_A.weight"] == (4, width)
    assert shapes[f"{second}.lora_A.weight"] == (16, width)
    scales = [trained.scale(module) for module in (first, second, third)]
    assert scales == ([4.0, 8.0, 1.0] if rslora else [2.0, 2.0, 0.25])
    assert trained.trained_with.ranks == {second: 16, third: 16}
    assert trained.trained_with.alphas == {second: 32.0, third: 4.0}


def test_ranks_and_modules_that_the_network_has_not_got_are_refused(network: ACEStepTransformer):
    names = set(dict(network.named_modules()))
    for bad in ({"modules": ["nothing"]}, {"ranks": {"nothing": 3}}, {"ranks": {"speaker_embedder": 0}}):
        with pytest.raises(AdapterError):
            attach_trainable(network, **{"modules": ["speaker_embedder"], "rank": 2, "alpha": 2, **bad})
    assert set(dict(network.named_modules())) == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dora_of_several_ranks_survives_its_folder(network, golden, tmp_path: Path, dtype: torch.dtype):
    modules = find_targets(module_shapes(network), ("to_q", "to_v", *FEED_FORWARD))
    ranks = {name: 5 for name in modules if name.endswith("to_v")}
    trained = attach_trainable(network, modules, rank=2, alpha=4, dora=True, rslora=True, ranks=ranks)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained.parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    in_training, folder = forward(network, golden), write_adapter(tmp_path / "a", trained.adapter())
    trained.detach()
    adapter = read_adapter(folder, module_shapes(network))
    assert adapter.metadata.trained == trained.trained_with
    network.to(dtype)
    base = forward(network, golden).float()
    attach(network, adapter, name="a")
    generated = forward(network, golden).float()
    if dtype == torch.float32:
        assert_close(generated, in_training)
    else:
        assert (generated - in_training).norm() < 0.1 * (base - in_training).norm()


def test_training_a_dora_moves_magnitudes_too(network: ACEStepTransformer, golden: dict[str, Tensor]):
    trained = attach_trainable(network, find_targets(module_shapes(network), ("to_q",)), rank=2, alpha=4, dora=True)
    inputs = golden["in.hidden_states"], golden["in.timestep"], encode(network, golden)
    network(*inputs).square().mean().backward()
    magnitudes = [p for name, p in trained.parameters().items() if name.endswith("magnitude_vector")]
    assert len(magnitudes) == len(trained.modules)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in magnitudes[:2])
