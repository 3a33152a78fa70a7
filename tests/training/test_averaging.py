import pytest
import torch
from torch import nn

from acestep.training.averaging import RunningAverage


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(3, 5)), "b": nn.Parameter(torch.randn(7))}


def move(params: dict[str, nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in params.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_the_average_is_the_weighted_sum_that_its_decays_define():
    params = parameters()
    average, path = RunningAverage(params, 0.5), [params["b"].detach().clone()]
    for step in range(12):
        move(params, step)
        path.append(params["b"].detach().clone())
        average.update(step)
    decays = [min(0.5, (1 + step) / (10 + step)) for step in range(12)]
    expected = path[0].double() * torch.tensor(decays).double().prod()
    for step in range(12):
        expected += path[step + 1].double() * (1 - decays[step]) * torch.tensor(decays[step + 1 :]).double().prod()
    torch.testing.assert_close(average.tensors()["b"].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_decay_warms_up_to_what_was_asked_for_and_stays():
    average = RunningAverage(parameters(), 0.9)
    decays = [average.decay_at(step) for step in range(200)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert decays[-1] == 0.9


def test_the_raw_values_return_to_the_bit_also_after_an_error_and_when_blocks_nest():
    params = parameters()
    average = RunningAverage(params, 0.9)
    for step in range(3):
        move(params, step)
        average.update(step)
    raw = {name: parameter.detach().clone() for name, parameter in params.items()}
    kept = {name: tensor.clone() for name, tensor in average.tensors().items()}

    def interrupted() -> None:
        with average.applied():
            with average.applied():
                assert torch.equal(params["a"], kept["a"])
            assert torch.equal(params["a"], kept["a"])
            assert torch.equal(average.raw()["a"], raw["a"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(params[name], raw[name]) for name in raw)
    assert all(torch.equal(average.tensors()[name], kept[name]) for name in kept)
    assert not average.is_applied


def test_the_average_of_half_precision_parameters_is_float32():
    params = {"a": nn.Parameter(torch.ones(4, dtype=torch.bfloat16))}
    average = RunningAverage(params, 0.999)
    for step in range(20_000, 20_003):
        with torch.no_grad():
            params["a"].add_(0.0625)
        average.update(step)
    # In bfloat16 these steps of less than 1/128 of the value would all be lost.
    assert average.tensors()["a"].dtype == torch.float32
    assert (average.tensors()["a"] > 1).all()
