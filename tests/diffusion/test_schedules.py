from __future__ import annotations

import pytest
import torch

from acestep.diffusion.schedules import reference_level, sampling_sigmas, selected_sigmas, training_sigmas
from reference_data import load_golden

GOLDEN = "tiny/goldens/schedulers.safetensors"


@pytest.mark.parametrize("name", ["euler", "pingpong"])
@pytest.mark.parametrize("steps", [27, 60])
def test_sampling_levels_are_the_released_ones(name: str, steps: int) -> None:
    golden = load_golden(GOLDEN)
    sigmas = sampling_sigmas(steps)
    torch.testing.assert_close(sigmas, golden[f"{name}.{steps}.sigmas"], rtol=2e-6, atol=0)
    torch.testing.assert_close(1000 * sigmas[:-1], golden[f"{name}.{steps}.timesteps"], rtol=2e-6, atol=0)


def test_heun_visits_each_euler_level_twice_but_the_first() -> None:
    golden = load_golden(GOLDEN)["heun.27.timesteps"]
    levels = 1000 * sampling_sigmas(27)[:-1]
    torch.testing.assert_close(torch.cat([levels[:1], levels[1:].repeat_interleave(2)]), golden, rtol=2e-6, atol=0)


@pytest.mark.parametrize(("sigma_max", "steps"), [(0.5, 13), (0.8, 21)])
def test_a_reference_shortens_the_schedule_as_released(sigma_max: float, steps: int) -> None:
    golden = load_golden(GOLDEN)
    sigmas = sampling_sigmas(steps, sigma_max=sigma_max)
    torch.testing.assert_close(sigmas, golden[f"euler.sigma_max_{sigma_max}.sigmas"], rtol=2e-6, atol=0)
    expected = golden[f"euler.sigma_max_{sigma_max}.effective_sigma_max"].item()
    assert reference_level(sigma_max) == pytest.approx(expected, rel=1e-6)


def test_training_levels_are_the_released_ones() -> None:
    golden = load_golden(GOLDEN)["euler.train_sigmas"]
    torch.testing.assert_close(training_sigmas(), golden, rtol=2e-6, atol=0)


def test_chosen_steps_are_shifted_once_more() -> None:
    golden = load_golden(GOLDEN)
    sigmas = selected_sigmas(golden["oss.steps"].tolist())
    torch.testing.assert_close(sigmas, golden["oss.sigmas"], rtol=2e-6, atol=1e-9)


def test_levels_fall_from_one_to_zero() -> None:
    sigmas = sampling_sigmas(10)
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
