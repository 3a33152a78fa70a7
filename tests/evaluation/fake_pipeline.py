"""A pipeline whose songs are coloured noise: a LoRA makes them brighter by a known slope, and nothing else.

Stands in for a model in what is about songs and measures; the real pipeline is in tests/cli.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from acestep.families.base import EncoderFingerprints, SamplingDefaults
from acestep.pipeline import GenerationResult
from evaluation.songs import RATE, coloured_noise

BASE_SLOPE_DB = -8.0


class BrightnessPipeline:
    """`slope_db` is what the LoRA adds to each octave at weight 1; songs at weight `broken_at` hold a NaN."""

    model = "fake"

    def __init__(self, slope_db: float, *, level: float = 1.0, broken_at: float | None = None) -> None:
        self.slope_db, self.level, self.broken_at = slope_db, level, broken_at
        self.family = SimpleNamespace(
            fingerprint=lambda: "f00d",
            encoder_fingerprints=lambda: EncoderFingerprints(audio="aa", text="bb"),
            sampling=SamplingDefaults(),
            network=torch.nn.Linear(1, 1),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self.loras: dict[str, float] = {}
        self.calls: list[tuple[str, int, float]] = []

    def load_lora(self, path: Any, weight: float = 1.0) -> str:
        self.loras["lora"] = weight
        return "lora"

    def set_lora_weights(self, weights: dict[str, float]) -> None:
        self.loras.update(weights)

    def unload_lora(self, name: str) -> None:
        del self.loras[name]

    def __call__(
        self, prompt: str, lyrics: str = "", *, duration: float, seed: int, **sampling: Any
    ) -> GenerationResult:
        weight = self.loras.get("lora", 0.0)
        self.calls.append((prompt, seed, weight))
        slope = BASE_SLOPE_DB + self.slope_db * weight
        audio = self.level * coloured_noise(slope, seed=seed * 1000 + len(prompt), seconds=duration)
        if weight == self.broken_at:
            audio[:, 100] = float("nan")
        params = {"prompt": prompt, "lyrics": lyrics, "duration": duration, "seed": seed, **sampling}
        recipe = {"task": "generate", "model": "fake", "params": params, "loras": [{"path": "lora", "weight": weight}]}
        return GenerationResult(torch.from_numpy(audio).float(), RATE, seed, params, torch.zeros(1), recipe)
