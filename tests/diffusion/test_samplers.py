from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from acestep.diffusion.samplers import mix_noise, move, omega_weight, sample_euler, sample_heun, sample_pingpong
from acestep.diffusion.schedules import sampling_sigmas
from reference_data import load_golden

GOLDEN = "tiny/goldens/schedulers.safetensors"
LIMIT = 2e-6


def assert_near(ours: Tensor, golden: Tensor) -> None:
    assert (ours - golden).abs().max() <= LIMIT * golden.abs().max()


@pytest.mark.parametrize("omega", [-5.0, 0.0, 10.0])
@pytest.mark.parametrize("step", [0, 5, 26])
def test_an_euler_step_is_the_released_one(omega: float, step: int) -> None:
    golden = load_golden(GOLDEN)
    sigmas = golden["euler.27.sigmas"]
    moved = move(
        golden[f"euler.step.in.sample.{step}"],
        golden[f"euler.step.in.model_output.{step}"],
        float(sigmas[step + 1] - sigmas[step]),
        weight=omega_weight(omega),
    )
    assert_near(moved, golden[f"euler.step.omega{omega}.out.{step}"])


@pytest.mark.parametrize("omega", [-5.0, 0.0, 10.0])
def test_the_omega_factor_is_the_released_one(omega: float) -> None:
    assert omega_weight(omega) == pytest.approx(load_golden(GOLDEN)[f"omega_rescaled.{omega}"].item(), rel=1e-7)


@pytest.mark.parametrize("omega", [0.0, 10.0])
def test_heun_steps_are_the_released_ones(omega: float) -> None:
    golden = load_golden(GOLDEN)
    outputs = iter([golden[f"heun.step.in.model_output.{call}"] for call in range(5)])
    seen: list[Tensor] = []

    def replay(latents: Tensor, _sigma: float) -> Tensor:
        seen.append(latents)
        return next(outputs)

    sigmas = sampling_sigmas(27)[:4]
    # The released run is cut after five calls, in the middle of the third step: a fourth level makes it second order
    # as well.
    with pytest.raises(StopIteration):
        sample_heun(replay, golden["heun.step.in.sample0"], torch.cat([sigmas, sigmas[-1:] / 2]), omega_scale=omega)
    for call in range(1, 6):
        assert_near(seen[call], golden[f"heun.step.omega{omega}.out.{call - 1}"])


@pytest.mark.parametrize("step", [0, 5, 26])
def test_a_pingpong_step_is_the_released_one(step: int) -> None:
    golden = load_golden(GOLDEN)
    sampled = sample_pingpong(
        lambda _latents, _sigma: golden[f"pingpong.step.in.model_output.{step}"],
        golden[f"pingpong.step.in.sample.{step}"],
        golden["pingpong.27.sigmas"][step : step + 2],
        draw_noise=lambda: golden[f"pingpong.step.in.noise.{step}"],
    )
    assert_near(sampled, golden[f"pingpong.step.omega10.0.out.{step}"])


@pytest.mark.parametrize("sampler", [sample_euler, sample_heun])
def test_a_straight_path_is_followed_to_its_end(sampler: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 8, 16, 5, generator=generator)
    sampled = sampler(lambda _latents, _sigma: noise - clean, noise, sampling_sigmas(7), omega_scale=0.0)
    torch.testing.assert_close(sampled, clean, rtol=1e-5, atol=1e-5)


def test_heun_is_second_order_where_euler_is_first() -> None:
    def decay(latents: Tensor, _sigma: float) -> Tensor:
        return latents

    start = torch.ones(1, 8, 16, 3)
    exact = torch.exp(torch.tensor(-1.0)) * start

    def error(sampler: Callable[..., Tensor], steps: int) -> float:
        levels = torch.linspace(1, 0, steps + 1)
        return float((sampler(decay, start, levels, omega_scale=0.0) - exact).abs().max())

    assert error(sample_heun, 40) < error(sample_euler, 40) / 2
    assert error(sample_heun, 10) / error(sample_heun, 40) > 8


def test_every_step_is_reported() -> None:
    reported: list[int] = []
    sample_euler(lambda x, _s: x, torch.ones(1, 8, 16, 2), sampling_sigmas(4), on_step=lambda i, _x: reported.append(i))
    assert reported == [0, 1, 2, 3]


def test_mixed_noise_keeps_unit_variance() -> None:
    first, second = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(1))
    for variance in (0.0, 0.3, 1.0):
        assert mix_noise(first, second, variance).std() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(mix_noise(first, second, 0.0), first)
