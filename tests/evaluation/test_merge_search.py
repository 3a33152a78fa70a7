from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from acestep.errors import InputError
from acestep.evaluation import merge_search
from acestep.evaluation.held_out import HeldOutClip, clip_losses, training_levels
from acestep.evaluation.merge_search import SearchedSource, search_weights
from acestep.lora import Adapter, Factors, attach, attached_names, module_shapes
from small_family import SmallFamily

MODULES = ("transformer_blocks.0.attn.to_q", "final_layer.linear")


def adapter_of(family: SmallFamily, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module in MODULES:
        out, into = module_shapes(family.network)[module]
        factors[module] = Factors(
            torch.randn(2, into, generator=generator), 0.3 * torch.randn(out, 2, generator=generator)
        )
    return Adapter(factors)


def sources_of(family: SmallFamily) -> list[SearchedSource]:
    torch.manual_seed(1)
    return [
        SearchedSource(
            name,
            adapter_of(family, seed),
            [HeldOutClip(name, torch.randn(8, 16, 6), family.encode_prompt([name], [""]))],
        )
        for seed, name in enumerate(("vocal", "drums"))
    ]


def test_the_weights_found_are_the_best_of_those_tried_and_measured_as_they_are_said_to_be() -> None:
    family, sources = SmallFamily(), sources_of(SmallFamily())
    before = family.fingerprint()
    result = search_weights(family, sources, levels=2, max_trials=12)
    assert family.fingerprint() == before
    assert attached_names(family.network) == []
    assert len(result.trials) <= 12
    by_weights = dict(result.trials)
    assert by_weights[result.weights] == min(by_weights.values())
    assert np.mean([source.lost for source in result.sources]) == pytest.approx(by_weights[result.weights])

    for source, weight in zip(sources, result.weights, strict=True):
        attach(family.network, source.adapter, name=source.name, weight=weight)
    sigmas = training_levels(family, 2)
    for source, told in zip(sources, result.sources, strict=True):
        assert float(clip_losses(family, source.clips, sigmas).mean()) == pytest.approx(told.merged, rel=1e-5)


@pytest.mark.parametrize(
    ("sum_to_one", "expected"), [(False, (0.9, 0.6, 0.2)), (True, (0.9 - 7 / 30, 0.6 - 7 / 30, 0.2 - 7 / 30))]
)
def test_a_known_lowest_place_is_found(
    monkeypatch: pytest.MonkeyPatch, sum_to_one: bool, expected: tuple[float, ...]
) -> None:
    """The mean loss is a bowl about (0.9, 0.6, 0.2); on the plane of sum one the nearest place is its projection."""
    now: dict[str, float] = {}
    targets = {"a": 0.9, "b": 0.6, "c": 0.2}

    def pretend(family: Any, clips: Sequence[HeldOutClip], *_: object, **__: object) -> np.ndarray[Any, Any]:
        name = clips[0].recording
        return np.array([[1 + (now[name] - targets[name]) ** 2 - (1 - targets[name]) ** 2 * (now[name] == 1)]])

    monkeypatch.setattr(merge_search, "clip_losses", pretend)
    monkeypatch.setattr(merge_search, "set_weights", lambda _, weights: now.update(weights))
    family = SmallFamily()
    made = sources_of(family)[0]
    sources = [
        SearchedSource(name, made.adapter, [HeldOutClip(name, made.clips[0].latents, made.clips[0].conditioning)])
        for name in targets
    ]
    result = search_weights(family, sources, sum_to_one=sum_to_one, max_trials=200)
    assert result.weights == pytest.approx(expected, abs=0.11)
    if sum_to_one:
        assert sum(result.weights) == pytest.approx(1, abs=1e-3)


def test_what_cannot_be_searched_is_refused_and_nothing_stays_attached() -> None:
    family = SmallFamily()
    sources = sources_of(family)
    with pytest.raises(InputError, match="at least two"):
        search_weights(family, sources[:1])
    with pytest.raises(InputError, match="same name"):
        search_weights(family, [sources[0], sources[0]])
    with pytest.raises(InputError, match="no held-out recordings for drums"):
        search_weights(family, [sources[0], SearchedSource("drums", sources[1].adapter, [])])
    with pytest.raises(InputError, match="max_trials"):
        search_weights(family, sources, max_trials=0)
    attach(family.network, sources[0].adapter, name="left over")
    with pytest.raises(InputError, match="left over is attached"):
        search_weights(family, sources)


def test_an_interrupted_search_gives_the_family_back_bare() -> None:
    family = SmallFamily()

    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_weights(family, sources_of(family), levels=1, progress=stop)
    assert attached_names(family.network) == []
