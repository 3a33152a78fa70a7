"""What an adapter does, on networks and adapters whose answer is known."""

import json
import math
from dataclasses import replace

import pytest
import torch

from acestep.errors import InputError
from acestep.evaluation.effect import Effect, delta_norm, measure_effect
from acestep.evaluation.held_out import HeldOutClip
from acestep.evaluation.probes import make_probes
from acestep.evaluation.prompts import Prompt
from acestep.lora import Adapter, AdapterMetadata, Factors, ReadingReport, attached_names, module_shapes
from acestep.lora.layers import adaptable_modules, dense_weight
from evaluation.random_adapter import random_adapter
from small_family import SmallFamily

PROMPTS = [Prompt(prompt=text) for text in ("calm piano", "loud drums", "slow strings", "a choir at night")]


@pytest.fixture(scope="module")
def family() -> SmallFamily:
    return SmallFamily()


@pytest.fixture(scope="module")
def clips(family: SmallFamily) -> list[HeldOutClip]:
    return make_probes(family, PROMPTS, duration_s=1.0, steps=4)


def causes(effect: Effect) -> set[str]:
    return {cause.key for cause in effect.found_causes}


def test_an_adapter_of_zeros_has_no_effect_and_the_reason_is_named(
    family: SmallFamily, clips: list[HeldOutClip]
) -> None:
    effect = measure_effect(family, random_adapter(family.network, size=0.0), clips)
    assert not effect.is_measurable
    assert effect.distance.value == 0.0
    assert effect.relative_norm == 0.0
    assert causes(effect) == {"zero"}
    assert "no measurable effect" in effect.summary
    assert "never learned" in effect.summary


def test_the_distance_is_what_two_networks_compute_by_hand(family: SmallFamily, clips: list[HeldOutClip]) -> None:
    adapter = random_adapter(family.network, size=0.5)
    sigmas = torch.tensor([0.7])
    effect = measure_effect(family, adapter, clips[:1], sigmas=sigmas)
    changed = SmallFamily()
    for name, module in adaptable_modules(changed.network):
        if name in adapter.factors:
            with torch.no_grad():
                module.weight += adapter.factors[name].delta()
    noisy = seen_by(family, clips[0], sigmas)
    base, moved = (f.velocity(noisy, sigmas, clips[0].conditioning).detach().flatten() for f in (family, changed))
    assert effect.distance.value == pytest.approx(float((moved - base).norm() / base.norm()), rel=1e-4)


def seen_by(family: SmallFamily, clip: HeldOutClip, sigmas: torch.Tensor) -> torch.Tensor:
    """What the network was given as the first clip."""
    seen = []
    watched = SmallFamily()
    watched.velocity = lambda latents, *_: (seen.append(latents), torch.ones_like(latents))[1]  # type: ignore[method-assign]
    measure_effect(watched, Adapter({}), [clip], sigmas=sigmas)
    return seen[0]


def test_effect_grows_with_strength_and_norms_are_proportional_to_it(
    family: SmallFamily, clips: list[HeldOutClip]
) -> None:
    adapter = random_adapter(family.network, size=0.2)
    effects = [measure_effect(family, adapter, clips, strength=strength) for strength in (0.5, 1.0, 2.0)]
    distances = [effect.distance.value for effect in effects]
    assert distances == sorted(distances)
    assert distances[0] > 1e-3
    norms = [effect.relative_norm for effect in effects]
    assert norms[0] * 2 == pytest.approx(norms[1])
    assert norms[2] == pytest.approx(2 * norms[1])
    assert all(effect.is_measurable for effect in effects)
    assert not causes(effects[1])
    assert effects[1].distance.low < distances[1] < effects[1].distance.high


def test_norms_tell_which_module_and_depth_is_changed(family: SmallFamily, clips: list[HeldOutClip]) -> None:
    everything = random_adapter(family.network, size=0.1)
    name = "transformer_blocks.1.cross_attn.to_q"
    loud = {**everything.factors, name: everything.factors[name].scaled(50.0)}
    effect = measure_effect(family, Adapter(loud), clips[:1])
    most = max(effect.modules, key=lambda module: module.relative)
    assert most.module == name
    weight = dict(adaptable_modules(family.network))[name].weight
    assert most.relative == pytest.approx(5.0 / float(weight.norm()), rel=1e-4)
    assert next(iter(effect.by_group)) == "cross attention"
    depths = effect.by_depth["transformer_blocks"]
    assert depths[1] > 3 * depths[0]
    assert "cross attention" in effect.summary


@pytest.mark.parametrize("dora", [False, True])
def test_the_norm_of_a_delta_needs_no_delta(family: SmallFamily, dora: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, base in adaptable_modules(family.network):
        out, *into = module_shapes(family.network)[name]
        weight = dense_weight(base)
        factors = Factors(
            0.1 * torch.randn(3, *into, generator=generator),
            0.1 * torch.randn(out, 3, *(1 for _ in into[1:]), generator=generator),
            weight.flatten(1).norm(dim=1) * (0.9 + 0.2 * torch.rand(out, generator=generator)) if dora else None,
        )
        dense = float(factors.delta(weight).double().norm())
        assert delta_norm(factors, base) == pytest.approx(dense, rel=1e-4)


def test_a_dora_that_changes_nothing_has_no_norm(family: SmallFamily) -> None:
    name, base = next(iter(adaptable_modules(family.network)))
    out, *into = module_shapes(family.network)[name]
    zero = Factors(torch.randn(2, *into), torch.zeros(out, 2, *(1 for _ in into[1:])))
    still = replace(zero, magnitude=dense_weight(base).flatten(1).norm(dim=1))
    assert delta_norm(still, base) / float(dense_weight(base).norm()) < 1e-6


def test_strength_zero_is_named(family: SmallFamily, clips: list[HeldOutClip]) -> None:
    effect = measure_effect(family, random_adapter(family.network, size=1.0), clips[:1], strength=0.0)
    assert not effect.is_measurable
    assert causes(effect) == {"strength"}


def test_another_base_is_named(family: SmallFamily, clips: list[HeldOutClip]) -> None:
    for metadata, expected in (
        (AdapterMetadata(family="v1"), True),
        (AdapterMetadata(family="small", base_fingerprint="0" * 64), True),
        (AdapterMetadata(family="small", base_fingerprint=family.fingerprint()), False),
        (AdapterMetadata(), None),
    ):
        effect = measure_effect(family, random_adapter(family.network, size=0.0, metadata=metadata), clips[:1])
        assert next(cause.found for cause in effect.causes if cause.key == "base") is expected


def test_names_that_match_nothing_are_named_and_the_model_is_left_alone(
    family: SmallFamily, clips: list[HeldOutClip]
) -> None:
    strangers = Adapter({"blocks.0.of_another_model": Factors(torch.ones(1, 4), torch.ones(4, 1))})
    effect = measure_effect(family, strangers, clips[:1])
    assert not effect.is_measurable
    assert "names" in causes(effect)
    assert "blocks.0.of_another_model" in effect.summary
    half = random_adapter(family.network, size=0.5)
    part = Adapter(half.factors, report=ReadingReport(unmatched=("x.lora_A", "x.lora_B"), misshapen=("y",)))
    named = next(cause for cause in measure_effect(family, part, clips[:1]).causes if cause.key == "names")
    assert named.found
    assert "2 names match no module and 1 have another shape" in named.text


def test_nan_is_told_and_stays_out_of_the_json(family: SmallFamily, clips: list[HeldOutClip]) -> None:
    adapter = random_adapter(family.network, size=0.5)
    name = next(iter(adapter.factors))
    broken = Adapter({**adapter.factors, name: adapter.factors[name].scaled(math.nan)})
    effect = measure_effect(family, broken, clips)
    assert effect.is_broken
    assert causes(effect) == {"not_finite"}
    assert "NaN" in effect.summary
    json.dumps(effect.as_dict(), allow_nan=False)
    clean = measure_effect(family, adapter, clips)
    assert not clean.is_broken


def test_what_rounding_does_as_well_is_no_effect(clips: list[HeldOutClip]) -> None:
    family = SmallFamily()
    family.to(dtype=torch.bfloat16)
    family.network.to(torch.bfloat16)
    tiny = measure_effect(family, random_adapter(family.network, size=1e-4), clips)
    large = measure_effect(family, random_adapter(family.network, size=1.0), clips)
    assert tiny.rounding > 1e-4
    assert not tiny.is_measurable
    assert large.is_measurable


def test_the_same_measurement_gives_the_same_json_and_the_network_back(
    family: SmallFamily, clips: list[HeldOutClip]
) -> None:
    adapter = random_adapter(family.network, size=0.3)
    before = family.fingerprint()
    first, second = (json.dumps(measure_effect(family, adapter, clips).as_dict(), allow_nan=False) for _ in range(2))
    assert first == second
    assert family.fingerprint() == before
    assert attached_names(family.network) == []


def test_the_network_comes_back_bare_when_it_fails_midway(clips: list[HeldOutClip]) -> None:
    family = SmallFamily()

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_effect(family, random_adapter(family.network, size=0.3), clips, progress=stop)
    assert attached_names(family.network) == []


def test_nothing_to_measure_on_is_said(family: SmallFamily) -> None:
    with pytest.raises(InputError, match="probes"):
        measure_effect(family, random_adapter(family.network, size=0.3), [])
    with pytest.raises(InputError, match="no prompts"):
        make_probes(family, [])
