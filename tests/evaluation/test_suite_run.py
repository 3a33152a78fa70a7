"""The suite from end to end, with adapters whose answer is known, on songs of coloured noise and a small network."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from acestep.errors import InputError
from acestep.evaluation.probes import make_probes
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.suite import read_suite
from acestep.evaluation.suite_run import damage_by_strength, losses_on_own_songs
from acestep.evaluation.suite_songs import SuiteSong
from acestep.lora import attach, set_weights
from acestep.pipeline import GenerationResult
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.random_adapter import random_adapter
from small_family import SmallFamily


class BentPipeline(BrightnessPipeline):
    """Its LoRA brightens songs by `slope_db` an octave, and changes the small network by deltas of norm `size`."""

    def __init__(self, slope_db: float, *, size: float) -> None:
        super().__init__(slope_db)
        self.family = SmallFamily()  # type: ignore[assignment]
        self.own = {
            prompt.recording: prompt.latents for prompt in make_probes(self.family, PROMPTS, duration_s=1.0, steps=8)
        }
        attach(self.family.network, random_adapter(self.family.network, size=size), name="lora")

    def set_lora_weights(self, weights: dict[str, float]) -> None:
        super().set_lora_weights(weights)
        set_weights(self.family.network, weights)

    def __call__(self, prompt: str, lyrics: str = "", **settings: Any) -> GenerationResult:
        if len(prompt) > 1000:
            raise InputError("the prompt is too long")
        result = super().__call__(prompt, lyrics, **settings)
        latents = self.own.get(f"{prompt}\n{lyrics}", torch.zeros(8, 16, 10))
        return replace(result, latents=latents[None])


SUITE = read_suite()
PROMPTS = SUITE.first(3)
EDGE = [prompt for prompt in SUITE.edge if prompt.id in ("one-word", "too-long")]


def test_an_adapter_of_zeros_costs_nothing() -> None:
    pipeline = BentPipeline(0.0, size=0.0)
    heard: list[tuple[int, int]] = []
    name = pipeline.load_lora("lora")
    damage = damage_by_strength(
        pipeline,  # type: ignore[arg-type]
        name,
        PROMPTS[:2],
        EDGE,
        strengths=(1.0,),
        duration_s=5.0,
        progress=lambda done, total: heard.append((done, total)),
    )[1.0]
    assert heard == [(done, 12) for done in range(1, 13)]
    assert damage.harms == ()
    assert damage.moved is not None
    assert damage.loss_rise is not None
    assert damage.moved.value == damage.loss_rise.value == 0.0
    assert [(edge.id, edge.base, edge.adapted) for edge in damage.edge] == [
        ("one-word", "song", "song"),
        ("too-long", "refused", "refused"),
    ]
    assert pipeline.loras == {name: 0.0}


def test_a_wreck_costs_the_more_the_stronger_it_is() -> None:
    pipeline = BentPipeline(2.0, size=2.0)
    wrecked = damage_by_strength(
        pipeline,  # type: ignore[arg-type]
        pipeline.load_lora("lora"),
        PROMPTS[:2],
        strengths=(0.5, 0, 3.0, 3.0),
        duration_s=5.0,
    )
    assert list(wrecked) == [0.5, 3.0]
    mild, strong = wrecked.values()
    for measure in ("moved", "loss_rise", "brightness_db"):
        weak_figure, strong_figure = getattr(mild, measure), getattr(strong, measure)
        assert 0 < weak_figure.value < strong_figure.value, measure
    assert strong.brightness_db is not None
    assert strong.brightness_db.value == pytest.approx(6.0, abs=0.2)
    assert strong.harms
    json.dumps([damage.as_dict() for damage in wrecked.values()], allow_nan=False)


def test_songs_without_latents_have_no_loss() -> None:
    pipeline = BentPipeline(0.0, size=0.0)
    songs = [SuiteSong(Prompt(prompt="a"), 1, "failed")]
    assert losses_on_own_songs(pipeline, pipeline.load_lora("lora"), songs, (1.0,)) == {}  # type: ignore[arg-type]
