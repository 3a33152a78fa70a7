from __future__ import annotations

import math

import pytest

from acestep.errors import InputError
from acestep.families import SamplingDefaults
from acestep.pipeline.settings import SamplingSettings, check_duration, check_seed


def test_none_is_the_familys_own_default() -> None:
    settings = SamplingSettings.complete(SamplingDefaults(steps=27, erg=()), steps=None, guidance_scale=4.0)
    assert settings.steps == 27
    assert settings.guidance_scale == 4.0
    assert settings.erg == ()


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InputError) as raised:
        SamplingSettings.complete(
            SamplingDefaults(), steps=0, guidance="best", guidance_interval=2.0, omega_scale=math.nan, erg=["all"]
        )
    for part in ("steps is 0", "cfg_zero_star", "guidance_interval is 2", "omega_scale is nan", "erg has 'all'"):
        assert part in str(raised.value)


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"cfg_scale.*guidance_scale"):
        SamplingSettings.complete(SamplingDefaults(), cfg_scale=3)


def test_chosen_steps_count_as_the_steps() -> None:
    assert SamplingSettings.complete(SamplingDefaults(), oss_steps=[2, 5, 9]).steps == 3
    with pytest.raises(InputError, match="heun"):
        SamplingSettings.complete(SamplingDefaults(), oss_steps=[2, 5], scheduler="heun")
    with pytest.raises(InputError, match="rising"):
        SamplingSettings.complete(SamplingDefaults(), oss_steps=[5, 2])


def test_wishes_make_the_same_settings_again() -> None:
    settings = SamplingSettings.complete(SamplingDefaults(), guidance="double", text_scale=4.0, steps=9)
    assert SamplingSettings.complete(SamplingDefaults(steps=1, omega_scale=0.0), **settings.wishes()) == settings


@pytest.mark.parametrize("duration_s", [4.99, 240.01, -1, math.inf, math.nan])
def test_durations_out_of_range_are_refused_with_the_range(duration_s: float) -> None:
    with pytest.raises(InputError, match="5 to 240 s"):
        check_duration(duration_s)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_generator_takes_are_refused(seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        check_seed(seed)
