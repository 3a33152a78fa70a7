"""The further measures of an evaluation, each put into the common form of a finding.

A measure that lacks what it needs is left out and says so; none of them can end an evaluation that has its songs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acestep.errors import AceStepError
from acestep.evaluation.adherence import Adherence, Heard, measure_adherence
from acestep.evaluation.adherence import hear as hear_music
from acestep.evaluation.effect import measure_effect
from acestep.evaluation.evaluation import HeldOut, Listener
from acestep.evaluation.findings import Finding
from acestep.evaluation.probes import probe_of
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.recordings import DatasetParts
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.lora.adapter import read_adapter
from acestep.lora.attach import module_shapes
from acestep.pipeline import ACEStepPipeline, GenerationResult

MAX_PROBES = 4
"""Prompts that the effect is measured on: the interval of the distance is narrow with a few."""

Found = Sequence[Finding | tuple[str, str]]


def further_measures(
    folder: Path,
    *,
    lora: str | Path,
    held_out: HeldOut | None = None,
    parts: DatasetParts | None = None,
    duration_s: float = 15.0,
) -> list[Listener]:
    """All measures beside the figures, for `evaluate_lora`. folder: the evaluation's own, for passages to listen to."""
    return [EffectListener(lora), AdherenceListener()]


class EffectListener(Listener):
    """Relative norm of the deltas, and the distance of outputs at equal noise, on the base's own songs."""

    title = "Effect on weights and outputs"

    def __init__(self, lora: str | Path, *, strength: float = 1.0) -> None:
        self.lora, self.strength = lora, strength

    def finish(self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison]) -> Found:
        pipeline.set_lora_weights({lora: 0.0})
        heard = {comparison.prompt: comparison.at(0.0).latents for comparison in comparisons}
        songs = [(prompt, latents) for prompt, latents in heard.items() if latents is not None][:MAX_PROBES]
        try:
            clips = [probe_of(pipeline.family, prompt, latents) for prompt, latents in songs]
            adapter = read_adapter(self.lora, module_shapes(pipeline.family.network))
            effect = measure_effect(pipeline.family, adapter, clips, strength=self.strength)
        except AceStepError as error:
            return [("effect", str(error))]
        levels = [(f"{sigma:.2f}", f"{moved.value:.2%}") for sigma, moved in effect.by_level]
        groups = [(group, f"{norm:.3%}") for group, norm in effect.by_group.items()]
        depths = [
            (f"{stack} {depth}", f"{norm:.3%}")
            for stack, norms in effect.by_depth.items()
            for depth, norm in norms.items()
        ]
        rows = [
            *(("distance at noise level", *row) for row in levels),
            *(("weights of a part", *row) for row in groups),
            *(("weights of a block", *row) for row in depths),
        ]
        details = {key: value for key, value in effect.as_dict().items() if key != "modules"}
        return [
            Finding(
                "effect",
                "Effect",
                effect.summary,
                alarm=effect.is_broken,
                columns=("Change of", "Where", "Relative"),
                rows=rows,
                details=details,
            )
        ]


class AdherenceListener(Listener):
    """Whether songs keep the tempo and the key that their prompts name, at each strength."""

    title = "Tempo and key in prompts"

    def __init__(self) -> None:
        self._heard: dict[tuple[Prompt, int, float], Heard] = {}
        self._found: dict[float, Adherence] = {}

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        heard = hear_music(song.audio.numpy(), song.sample_rate)
        self._heard[comparison.prompt, comparison.seed, take.strength] = heard

    def finish(self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison]) -> Found:
        strengths = sorted({take.strength for comparison in comparisons for take in comparison.takes} - {0.0})
        for strength in strengths:
            pairs = [
                (prompt, base, adapted)
                for (prompt, seed, own), base in self._heard.items()
                if own == 0 and (adapted := self._heard.get((prompt, seed, strength))) is not None
            ]
            prompts = [prompt.prompt for prompt, _, _ in pairs]
            self._found[strength] = measure_adherence(prompts, [pair[1] for pair in pairs], [pair[2] for pair in pairs])
        shown = [(strength, kept) for strength, found in self._found.items() for kept in found.kept]
        left_out = list(dict.fromkeys(item for found in self._found.values() for item in found.left_out))
        if not shown:
            return left_out
        lost = [f"{kept.name.lower()} at {strength:g}" for strength, kept in shown if kept.is_lost]
        rows = [
            (
                kept.name,
                f"{strength:g}",
                f"{kept.base:.0%}",
                f"{kept.adapted:.0%}",
                "–" if kept.chance is None else f"{kept.chance:.0%}",
                str(kept.songs),
            )
            for strength, kept in shown
        ]
        says = (
            f"Lost beyond doubt: {', '.join(lost)}."
            if lost
            else "Songs keep them no worse than the base's, as far as can be measured."
        )
        finding = Finding(
            "adherence",
            "Tempo and key in prompts",
            says,
            columns=("Wish", "Strength", "Base keeps", "LoRA keeps", "By chance", "Songs"),
            rows=rows,
            details={"by_strength": [{"strength": s, **found.as_dict()} for s, found in self._found.items()]},
        )
        return [finding, *left_out]

    def damage(self, strength: float) -> Sequence[str]:
        found = self._found.get(strength)
        return [f"{kept.name.lower()} in prompts is lost" for kept in found.kept if kept.is_lost] if found else []
