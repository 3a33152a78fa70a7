"""Against the dense formulas of each kind, written out."""

import pytest
import torch
from torch import Tensor

from acestep.errors import CheckpointError
from acestep.lora.factorisation import change_shape, kind_of, magnitude_of, shaped_like
from acestep.lora.factors import Factors

generator = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def dense(parts: dict[str, Tensor], role: str) -> Tensor:
    """One of LoHa's or LoKr's two matrices, as LyCORIS makes it."""
    if role in parts:
        return parts[role]
    a, b = parts[f"{role}_a"], parts[f"{role}_b"]
    core = parts.get(role.replace("w", "t"))
    return a @ b if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a)


LOKR = {
    "both whole": {"lokr_w1": rand(2, 3), "lokr_w2": rand(5, 4)},
    "second in factors": {"lokr_w1": rand(2, 3), "lokr_w2_a": rand(5, 2), "lokr_w2_b": rand(2, 4)},
    "both in factors": {
        "lokr_w1_a": rand(4, 2),
        "lokr_w1_b": rand(2, 3),
        "lokr_w2_a": rand(5, 2),
        "lokr_w2_b": rand(2, 4),
    },
    "a convolution": {"lokr_w1": rand(2, 3), "lokr_w2": rand(5, 4, 3, 3)},
    "a convolution with a core": {
        "lokr_w1": rand(2, 3),
        "lokr_w2_a": rand(2, 5),
        "lokr_w2_b": rand(2, 4),
        "lokr_t2": rand(2, 2, 3, 1),
    },
    "wide": {"lokr_w1": rand(2, 12), "lokr_w2": rand(3, 7)},
    "tall": {"lokr_w1": rand(12, 2), "lokr_w2": rand(7, 3)},
}
LOHA = {
    "linear": {"hada_w1_a": rand(9, 2), "hada_w1_b": rand(2, 8), "hada_w2_a": rand(9, 3), "hada_w2_b": rand(3, 8)},
    "of full rank": {
        "hada_w1_a": rand(5, 3),
        "hada_w1_b": rand(3, 4),
        "hada_w2_a": rand(5, 3),
        "hada_w2_b": rand(3, 4),
    },
    "a convolution with cores": {
        "hada_w1_a": rand(2, 9),
        "hada_w1_b": rand(2, 8),
        "hada_t1": rand(2, 2, 3, 1),
        "hada_w2_a": rand(2, 9),
        "hada_w2_b": rand(2, 8),
        "hada_t2": rand(2, 2, 3, 1),
    },
}


def lokr_change(parts: dict[str, Tensor]) -> Tensor:
    first, second = dense(parts, "lokr_w1"), dense(parts, "lokr_w2")
    return torch.kron(first.reshape(*first.shape, *(1 for _ in second.shape[2:])), second.contiguous())


def loha_change(parts: dict[str, Tensor]) -> Tensor:
    return dense(parts, "hada_w1") * dense(parts, "hada_w2")


CASES = [(parts, lokr_change(parts)) for parts in LOKR.values()] + [
    (parts, loha_change(parts)) for parts in LOHA.values()
]


@pytest.mark.parametrize(("parts", "change"), CASES, ids=[*LOKR, *LOHA])
def test_every_kind_becomes_factors_exactly_of_no_more_rank_than_its_shape_has(
    parts: dict[str, Tensor], change: Tensor
):
    kind = kind_of(parts)
    assert kind is not None
    factors, lost = kind.factors(parts, None)
    assert lost == 0
    assert factors.fits(change.shape)
    assert factors.rank <= min(len(change), change.flatten(1).shape[1])
    torch.testing.assert_close(factors.delta(), change)
    assert change_shape(kind, {role: part.shape for role, part in parts.items()}) == tuple(change.shape)


@pytest.mark.parametrize(("parts", "change"), CASES, ids=[*LOKR, *LOHA])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_lower_rank_is_the_best_there_is_and_tells_what_it_lost(parts: dict[str, Tensor], change: Tensor, rank: int):
    kind = kind_of(parts)
    assert kind is not None
    factors, lost = kind.factors(parts, rank)
    values = torch.linalg.svdvals(change.flatten(1).double())
    best = values[rank:].norm() / values.norm()
    found = (factors.delta() - change).norm() / change.norm()
    assert factors.rank == rank
    assert lost == pytest.approx(float(best), abs=1e-6)
    assert float(found) == pytest.approx(float(best), abs=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        {"A": torch.zeros(4, 6, 1), "B": rand(8, 4, 1)},
        {"lokr_w1": torch.zeros(2, 2), "lokr_w2_a": rand(4, 2), "lokr_w2_b": rand(2, 3)},
    ],
    ids=["LoRA", "LoKr"],
)
def test_a_change_that_is_zero_is_cut_to_one_that_is_zero(parts: dict[str, Tensor]):
    kind = kind_of(parts)
    assert kind is not None
    factors, lost = kind.factors(parts, 2)
    assert (factors.rank, lost) == (1, 0.0)
    assert factors.fits(change_shape(kind, {role: part.shape for role, part in parts.items()}))
    assert not factors.delta().any()


def test_a_convolution_with_a_small_kernel_between_two_products_is_one_product():
    parts = {"A": rand(2, 4, 1, 1), "B": rand(6, 3, 1, 1), "mid": rand(3, 2, 3, 3)}
    kind = kind_of(parts)
    assert kind is not None
    factors, _ = kind.factors(parts, None)
    expected = torch.einsum("or,rskl,si->oikl", parts["B"].flatten(1), parts["mid"], parts["A"].flatten(1))
    torch.testing.assert_close(factors.delta(), expected)
    assert change_shape(kind, {role: part.shape for role, part in parts.items()}) == (6, 4, 3, 3)


@pytest.mark.parametrize(
    ("roles", "name"),
    [
        ({"A", "B", "alpha"}, "LoRA"),
        ({"A"}, None),
        ({"lokr_w1", "lokr_w2_a"}, None),
        ({"lokr_w1_a", "lokr_w1_b", "lokr_w2"}, "LoKr"),
        ({"hada_w1_a", "hada_w1_b", "hada_w2_a"}, None),
        ({"alpha"}, None),
    ],
)
def test_a_kind_is_told_by_parts_that_are_all_there(roles: set[str], name: str | None):
    kind = kind_of(roles)
    assert (kind.name if kind else None) == name


@pytest.mark.parametrize(
    "shapes",
    [
        {"A": (2, 4), "B": (6, 3)},
        {"A": (4,), "B": (6, 4)},
        {"A": (0, 4), "B": (6, 0)},
        {"A": (2, 4), "B": (6, 2), "mid": (3, 3, 1)},
        {"hada_w1_a": (9, 2), "hada_w1_b": (2, 8), "hada_w2_a": (9, 3), "hada_w2_b": (3, 7)},
        {"lokr_w1": (2,), "lokr_w2": (5, 4)},
    ],
)
def test_shapes_that_make_no_change_are_told(shapes: dict[str, tuple[int, ...]]):
    kind = kind_of(shapes)
    assert kind is not None
    assert change_shape(kind, shapes) is None


def test_what_alpha_is_divided_by_is_what_was_factored_last():
    shapes = {"lokr_w1_b": (3, 9), "lokr_w2_b": (5, 9)}
    for kind_roles, rank in (
        ({"A": (4, 2), "B": (3, 4)}, 4),
        ({**shapes, "lokr_w1_a": (1, 3), "lokr_w2_a": (1, 5)}, 5),
    ):
        kind = kind_of(kind_roles)
        assert kind is not None
        assert kind.rank(kind_roles) == rank
    whole = {"lokr_w1": (2, 2), "lokr_w2": (2, 2)}
    kind = kind_of(whole)
    assert kind is not None
    assert kind.rank(whole) is None


def test_magnitudes_come_flat_in_every_programs_shape_and_those_of_inputs_are_refused():
    values = torch.arange(1.0, 5)
    for parts in ({"magnitude": values}, {"magnitude": values.view(1, 4, 1)}, {"dora_scale": values.view(4, 1)}):
        found = magnitude_of(parts, 4)
        assert found is not None
        assert torch.equal(found, values)
    assert magnitude_of({}, 4) is None
    with pytest.raises(CheckpointError, match="each input"):
        magnitude_of({"dora_scale": torch.ones(1, 6)}, 4)


def test_pointwise_convolutions_and_linear_layers_are_written_either_way():
    flat = Factors(rand(2, 5), rand(3, 2))
    assert shaped_like(flat, (3, 5, 1)).fits((3, 5, 1))
    assert shaped_like(flat, (3, 5, 1, 1)).fits((3, 5, 1, 1))
    assert shaped_like(shaped_like(flat, (3, 5, 1, 1)), (3, 5)).fits((3, 5))
    assert not shaped_like(flat, (3, 5, 3)).fits((3, 5, 3))
