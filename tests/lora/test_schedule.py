import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acestep.diffusion.guidance import Branches
from acestep.errors import InputError
from acestep.families.loading import load_family
from acestep.lora import attach, set_weights
from acestep.lora.schedule import NoiseRange, Section, Strength, scheduled_branches, section_masks
from small_adapter import nano_adapter

RATE = 10.0
CHORUS = Strength(0.2, sections=(Section(2.0, 5.0, 1.0),))


def test_a_strength_is_its_weight_outside_sections_and_the_last_written_inside():
    strength = Strength(0.2, sections=(Section(0, 10, 0.5), Section(2, 5, 1.0)))
    assert [strength.at(time) for time in (0, 1.9, 2.0, 4.9, 5.0, 10.0)] == [0.5, 0.5, 1.0, 1.0, 0.5, 0.2]


def test_noise_ranges_are_closed_above_so_that_pure_noise_belongs_to_one():
    strength = Strength(1.0, noise_ranges=(NoiseRange(1.0, 0.7, 0.0), NoiseRange(0.7, 0.0, 2.0)))
    assert [strength.factor(sigma) for sigma in (1.0, 0.71, 0.7, 0.01, 0.0)] == [0.0, 0.0, 2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Strength(math.nan),
        lambda: Strength(sections=(Section(3, 2, 1.0),)),
        lambda: Strength(sections=(Section(-1, 2, 1.0),)),
        lambda: Strength(sections=(Section(0, math.nan, 1.0),)),
        lambda: Strength(noise_ranges=(NoiseRange(0.2, 0.4, 1.0),)),
        lambda: Strength(noise_ranges=(NoiseRange(2.0, 0.4, 1.0),)),
        lambda: Strength(noise_ranges=(NoiseRange(1.0, 0.4, math.inf),)),
    ],
)
def test_strengths_that_cannot_be_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_masks_change_over_the_fade_around_the_sections_edges():
    masks = section_masks([CHORUS], 80, RATE, fade_s=1.0)
    inside = masks[(1.0,)]
    assert torch.equal(inside[25:45], torch.ones(20))
    assert torch.equal(inside[:14], torch.zeros(14))
    assert float(inside[19]) < 0.5 < float(inside[20])
    hard = section_masks([CHORUS], 80, RATE, fade_s=0.0)[(1.0,)]
    assert torch.equal(hard.nonzero().flatten(), torch.arange(20, 50))


@settings(max_examples=50, deadline=None)
@given(
    spans=st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 5), st.sampled_from([0.0, 0.5, 1.0])), max_size=4),
    frames=st.integers(1, 60),
    fade=st.floats(0, 20),
)
def test_masks_add_up_to_one_in_every_frame(spans: list[tuple[float, float, float]], frames: int, fade: float):
    strength = Strength(sections=tuple(Section(start, start + length, weight) for start, length, weight in spans))
    masks = section_masks([strength, CHORUS], frames, RATE, fade_s=fade)
    torch.testing.assert_close(torch.stack(list(masks.values())).sum(0), torch.ones(frames))
    assert all((mask >= 0).all() for mask in masks.values())


class Recorder:
    """A model whose velocity is the strength that is set, everywhere."""

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}
        self.built, self.passes = 0, 0

    def apply(self, weights: dict[str, float]) -> None:
        self.weights = dict(weights)

    def build(self) -> Branches:
        self.built += 1
        encoded = dict(self.weights)  # what a cache would hold

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            self.passes += 1
            assert encoded == self.weights
            return torch.full_like(latents, sum(self.weights.values()))

        return Branches(velocity, lambda latents, sigma: (velocity(latents, sigma), -velocity(latents, sigma)))


def test_each_frame_gets_the_velocity_of_its_strengths_and_each_set_is_built_once():
    model = Recorder()
    strengths = {"a": CHORUS, "b": Strength(10.0, noise_ranges=(NoiseRange(1.0, 0.5, 0.0),))}
    branches = scheduled_branches(model.build, model.apply, strengths, frames=80, latent_rate=RATE)
    latents = torch.zeros(1, 8, 16, 80)
    early, late = branches.conditional(latents, 0.9), branches.conditional(latents, 0.4)
    branches.conditional(latents, 0.3)
    assert (float(early[..., 0].mean()), float(early[..., 35].mean())) == pytest.approx((0.2, 1.0))
    assert (float(late[..., 0].mean()), float(late[..., 35].mean())) == pytest.approx((10.2, 11.0))
    assert (model.built, model.passes) == (4, 6)
    conditional, null = branches.contrasted(latents, 0.4)
    torch.testing.assert_close(conditional, late)
    torch.testing.assert_close(null, -late)


def test_sets_that_a_noise_level_makes_equal_are_one_pass():
    model = Recorder()
    off = Strength(0.5, sections=(Section(1, 2, 1.0),), noise_ranges=(NoiseRange(1.0, 0.0, 0.0),))
    branches = scheduled_branches(model.build, model.apply, {"a": off}, frames=80, latent_rate=RATE)
    assert torch.equal(branches.conditional(torch.zeros(1, 8, 16, 80), 0.5), torch.zeros(1, 8, 16, 80))
    assert (model.built, model.passes) == (1, 1)


def test_on_nano_a_constant_schedule_is_the_plain_strength_and_a_section_lies_between():
    family = load_family("nano", device="cpu")
    attach(family.network, nano_adapter(), name="a")
    conditioning = family.encode_prompt(["lofi"], [""])
    latents = torch.randn(1, 8, 16, 64, generator=torch.Generator().manual_seed(0))

    def velocity(strength: Strength) -> Tensor:
        branches = scheduled_branches(
            lambda: family.branches(conditioning),
            lambda weights: set_weights(family.network, weights),
            {"a": strength},
            frames=64,
            latent_rate=family.latent_rate,
        )
        with torch.no_grad():
            return branches.conditional(latents, 0.6)

    plain = {}
    for weight in (0.0, 0.02):
        set_weights(family.network, {"a": weight})
        with torch.no_grad():
            plain[weight] = family.branches(conditioning).conditional(latents, 0.6)
        assert torch.equal(velocity(Strength(weight)), plain[weight])
    assert not torch.equal(plain[0.0], plain[0.02])
    section = velocity(Strength(0.0, sections=(Section(3.0, 6.0, 0.02),)))
    torch.testing.assert_close(section[..., :24], plain[0.0][..., :24])
    torch.testing.assert_close(section[..., 40:], plain[0.02][..., 40:])
