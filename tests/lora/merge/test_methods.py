"""Every method against a dense implementation written here, number by number where that is how the paper has it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from acestep.errors import InputError
from acestep.lora import Factors
from acestep.lora.merge.combining import combine, gram_of
from acestep.lora.merge.della import drop_by_magnitude
from acestep.lora.merge.methods import METHODS, find_method
from acestep.lora.merge.ties import ties
from acestep.lora.merge.tsv import whitened

OUT, IN = 12, 9
WEIGHTS = torch.tensor([0.7, 0.3, 0.5], dtype=torch.float64)


def changes(count: int = 3, *, seed: int = 0, ranks: tuple[int, ...] = (2, 3, 1)) -> list[Factors]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Factors(torch.randn(rank, IN, generator=generator), torch.randn(OUT, rank, generator=generator))
        for rank in ranks[:count]
    ]


def dense(found: list[Factors]) -> Tensor:
    return torch.stack([(f.b.double() @ f.a.double()) for f in found])


def merged(name: str, found: list[Factors], weights: Tensor = WEIGHTS, **options: float) -> Tensor:
    method = find_method(name)
    seeds = [str(index) for index in range(len(found))]
    result = combine(method, found, weights, options=method.complete(options), rank="full", seeds=seeds)
    return (result.left.double() * result.values.double()) @ result.right.double()


def close(result: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def trimmed(delta: Tensor, density: float) -> Tensor:
    """The largest numbers of one change, by sorting."""
    kept = torch.zeros_like(delta).flatten()
    order = delta.abs().flatten().argsort(descending=True)[: round(density * delta.numel())]
    kept[order] = delta.flatten()[order]
    return kept.view_as(delta)


def elected(deltas: Tensor, weights: Tensor) -> Tensor:
    """Sign election and disjoint mean, number by number."""
    result = torch.zeros_like(deltas[0])
    for place in range(result.numel()):
        values = [float(delta.flatten()[place]) for delta in deltas]
        total = sum(w * v for w, v in zip(weights.tolist(), values, strict=True))
        agree = [(w, v) for w, v in zip(weights.tolist(), values, strict=True) if v * total > 0]
        if agree:
            result.view(-1)[place] = sum(w * v for w, v in agree) / sum(w for w, _ in agree)
    return result


def test_a_weighted_average_is_the_dense_one():
    found = changes()
    expected = torch.einsum("n,noi->oi", WEIGHTS / WEIGHTS.sum(), dense(found))
    close(merged("weighted_average", found), expected)


def test_task_arithmetic_adds_and_takes_away():
    found, weights = changes(), torch.tensor([0.7, -0.4, 0.0], dtype=torch.float64)
    close(merged("task_arithmetic", found, weights), torch.einsum("n,noi->oi", weights, dense(found)))


def test_slerp_is_the_arc_between_the_dense_changes():
    found, weights = changes(2), torch.tensor([0.75, 0.25], dtype=torch.float64)
    one, other = dense(found)
    angle = math.acos(float((one * other).sum() / (one.norm() * other.norm())))
    direction = math.sin(0.75 * angle) * one / one.norm() + math.sin(0.25 * angle) * other / other.norm()
    norm = 0.75 * one.norm() + 0.25 * other.norm()
    close(merged("slerp", found, weights), direction / math.sin(angle) * norm)
    assert float(direction.norm() / math.sin(angle)) == pytest.approx(1)


def test_slerp_between_opposite_parallel_and_zero_changes_is_the_average():
    one = changes(1)[0]
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)
    for factor in (1.0, -1.0, 0.0):
        expected = (0.75 + 0.25 * factor) * dense([one])[0]
        close(merged("slerp", [one, one.scaled(factor)], weights), expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_trim_elect_and_merge(density: float):
    found = changes()
    expected = elected(torch.stack([trimmed(delta, density) for delta in dense(found)]), WEIGHTS)
    close(merged("ties", found, density=density, scale=1.5), 1.5 * expected)


def test_in_ties_a_negative_weight_turns_a_change_round():
    found = changes(2)
    turned = [found[0], found[1].scaled(-1.0)]
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    close(merged("ties", found, weights * torch.tensor([1, -1])), merged("ties", turned, weights))


def test_magnitude_pruning_adds_what_is_largest():
    found = changes()
    expected = sum(w * trimmed(delta, 0.3) for w, delta in zip(WEIGHTS.tolist(), dense(found), strict=True))
    close(merged("magnitude", found, density=0.3), expected)


def draws_for(found: Tensor, seed: int = 3) -> Tensor:
    return torch.rand(found.shape, generator=torch.Generator().manual_seed(seed), dtype=found.dtype)


def test_dare_drops_and_rescales_number_by_number():
    deltas = dense(changes())
    draws = draws_for(deltas)
    left = torch.zeros_like(deltas)
    for place in range(deltas.numel()):
        if float(draws.view(-1)[place]) < 0.4:
            left.view(-1)[place] = deltas.view(-1)[place] / 0.4
    summed = find_method("dare_linear").merge(deltas, WEIGHTS, draws, density=0.4)
    close(summed, torch.einsum("n,noi->oi", WEIGHTS, left))
    close(find_method("dare_ties").merge(deltas, WEIGHTS, draws, density=0.4, scale=2.0), 2 * elected(left, WEIGHTS))


def test_della_drops_the_small_numbers_of_a_row_more_often():
    deltas = dense(changes())
    draws = draws_for(deltas)
    left = torch.zeros_like(deltas)
    for index in range(len(deltas)):
        for row in range(OUT):
            order = sorted(range(IN), key=lambda column: abs(float(deltas[index, row, column])))
            for place, column in enumerate(order):
                chance = 0.5 - 0.1 + 0.2 * place / (IN - 1)
                if float(draws[index, row, column]) < chance:
                    left[index, row, column] = deltas[index, row, column] / chance
    torch.testing.assert_close(drop_by_magnitude(deltas, draws, 0.5, 0.2), left, rtol=1e-6, atol=0)
    result = find_method("della").merge(deltas, WEIGHTS, draws, density=0.5, window=0.2)
    close(result, elected(left, WEIGHTS))


def test_knots_is_ties_on_the_parts_of_one_svd():
    found = changes()
    deltas = dense(found)
    u, s, v = torch.linalg.svd(torch.cat(list(deltas), dim=1), full_matrices=False)
    rank = sum(change.rank for change in found)
    parts = torch.stack(list((s[:rank, None] * v[:rank]).split(IN, dim=1)))
    expected = u[:, :rank] @ elected(torch.stack([trimmed(part, 0.4) for part in parts]), WEIGHTS)
    close(merged("knots", found, density=0.4), expected)


def test_core_space_is_ties_in_the_shared_bases():
    found = changes()
    ups, downs = [], []
    for delta, change in zip(dense(found), found, strict=True):
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        ups.append(u[:, : change.rank] * s[: change.rank].sqrt())
        downs.append(s[: change.rank, None].sqrt() * v[: change.rank])
    left = torch.linalg.svd(torch.cat(ups, dim=1), full_matrices=False)[0]
    right = torch.linalg.svd(torch.cat(downs), full_matrices=False)[2]
    cores = left.T @ dense(found) @ right.T
    torch.testing.assert_close(left @ cores @ right, dense(found))  # nothing is lost on the way in
    expected = left @ elected(torch.stack([trimmed(core, 0.4) for core in cores]), WEIGHTS) @ right
    close(merged("core_space", found, density=0.4), expected)


def test_tsv_whitens_the_singular_vectors():
    found = changes()
    us, ss, vs = [], [], []
    for delta, change, weight in zip(dense(found), found, WEIGHTS.tolist(), strict=True):
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        us.append(u[:, : change.rank])
        ss.append(weight * s[: change.rank])
        vs.append(v[: change.rank].T)
    left, right = (polar(torch.cat(vectors, dim=1)) for vectors in (us, vs))
    close(merged("tsv", found), left @ torch.diag(torch.cat(ss)) @ right.T)


def polar(vectors: Tensor) -> Tensor:
    """X (X'X)^(-1/2), by the eigenvalues of X'X."""
    values, basis = torch.linalg.eigh(vectors.T @ vectors)
    return vectors @ basis @ torch.diag(values.rsqrt()) @ basis.T


def test_iso_c_makes_the_spectrum_of_the_sum_flat():
    found = changes()
    u, s, v = torch.linalg.svd(torch.einsum("n,noi->oi", WEIGHTS, dense(found)), full_matrices=False)
    rank = sum(change.rank for change in found)
    close(merged("iso_c", found, scale=0.5), 0.5 * s[:rank].mean() * u[:, :rank] @ v[:rank])


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("slerp", "dare_linear", "dare_ties", "della")]
)
def test_the_order_of_the_adapters_changes_nothing(name: str):
    found = changes()
    turned = [2, 0, 1]
    close(merged(name, [found[i] for i in turned], WEIGHTS[turned]), merged(name, found))


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_of_weight_zero_changes_nothing(name: str):
    first, second, _ = changes()
    weights = torch.tensor([0.6, 0.0], dtype=torch.float64)
    other = changes(seed=9)[1]
    close(merged(name, [first, second], weights), merged(name, [first, other], weights), 1e-5)


@pytest.mark.parametrize("name", ["weighted_average", "slerp", "ties", "knots", "core_space", "tsv"])
def test_an_adapter_merged_with_itself_stays_as_it_is(name: str):
    one = changes(1)[0]
    options = {"density": 1.0} if "density" in METHODS[name].options else {}
    # What TSV adds up is orthogonal: two equal changes share one direction between them, and half their strength.
    half = 1.0 if name == "tsv" else 0.5
    result = merged(name, [one, one], torch.tensor([half, half], dtype=torch.float64), **options)
    close(result, dense([one])[0], 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_changes_that_are_zero_merge_to_zero(name: str):
    zero = Factors(torch.randn(2, IN), torch.zeros(OUT, 2))
    assert not merged(name, [zero, zero], torch.tensor([0.5, 0.5], dtype=torch.float64)).any()


def test_whitening_makes_up_no_direction_where_two_are_the_same():
    vectors = torch.eye(5)[:, [0, 1, 1]]
    result = whitened(vectors)
    assert result[:, 1].norm() == pytest.approx(math.sqrt(0.5))
    torch.testing.assert_close(result[:, 1], result[:, 2])
    assert not result[2:].any()


def test_the_gram_matrix_is_that_of_the_dense_changes():
    found = changes()
    flat = dense(found).flatten(1)
    torch.testing.assert_close(gram_of(found), flat @ flat.T, rtol=1e-5, atol=1e-5)


def test_ties_in_the_weights_is_not_ties_on_the_factors():
    """What other tools do: their result lies far from the method's own."""
    found = changes(2, ranks=(2, 2))
    weights = torch.tensor([0.5, 0.5])
    on_factors = ties(torch.stack([f.b for f in found]), weights) @ ties(torch.stack([f.a for f in found]), weights)
    true = merged("ties", found, weights.double())
    assert float((on_factors - true).norm() / true.norm()) > 0.5


@pytest.mark.parametrize("density", [0, -0.5, 1.5, math.nan])
@pytest.mark.parametrize("name", ["ties", "dare_linear", "della", "magnitude", "knots", "core_space"])
def test_impossible_densities_are_refused(name: str, density: float):
    with pytest.raises(InputError, match="density"):
        merged(name, changes(), density=density)


def test_options_are_checked_by_name_and_sort():
    with pytest.raises(InputError, match="ties has no option p; it has density, scale"):
        find_method("ties").complete({"p": 0.5})
    with pytest.raises(InputError, match="weighted_average has no option density; it has no options"):
        find_method("weighted_average").complete({"density": 0.5})
    for value in ("0.5", True, None, math.inf):
        with pytest.raises(InputError, match="expected a number"):
            find_method("ties").complete({"density": value})
    with pytest.raises(InputError, match="window"):
        merged("della", changes(), density=0.9, window=0.5)
    with pytest.raises(InputError, match="kept is 0"):
        merged("tsv", changes(), kept=0)


def test_an_unknown_method_lists_what_there_is():
    with pytest.raises(InputError, match="no merge method 'average'; choose one of weighted_average, task_arithmetic"):
        find_method("average")


def test_every_method_says_what_it_does_and_where_it_is_from():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.description.endswith(".")
        assert method.paper.startswith("arXiv:") or "1985" in method.paper
