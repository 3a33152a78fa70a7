"""The further measures of an evaluation, each put into the common form of a finding.

A measure that lacks what it needs is left out and says so; none of them can end an evaluation that has its songs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acestep.errors import AceStepError
from acestep.evaluation.adherence import Adherence, Heard, measure_adherence
from acestep.evaluation.adherence import hear as hear_music
from acestep.evaluation.damage import Damage, measure_damage
from acestep.evaluation.deep_embeddings import deep_listeners
from acestep.evaluation.effect import measure_effect
from acestep.evaluation.evaluation import Listener, Progress, measure_losses
from acestep.evaluation.findings import Finding
from acestep.evaluation.memorised_passages import MemorisationListener
from acestep.evaluation.probes import probe_of
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.recordings import DatasetParts
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.evaluation.song_cache import SongCache, base_identity
from acestep.evaluation.suite import read_suite
from acestep.evaluation.suite_songs import SuiteSong, play_edge, play_suite
from acestep.lora.adapter import read_adapter
from acestep.lora.attach import module_shapes
from acestep.pipeline import ACEStepPipeline, GenerationResult

MAX_PROBES = 4
"""Prompts that the effect is measured on: the interval of the distance is narrow with a few."""
SUITE_PROMPTS = 4
SUITE_SEEDS = (1, 2)
SUITE_SONG_S = 10.0

Found = Sequence[Finding | tuple[str, str]]


def further_measures(
    folder: Path,
    *,
    lora: str | Path,
    parts: DatasetParts | None = None,
    cache: SongCache | None = None,
    suite_prompts: int = SUITE_PROMPTS,
    **sampling: Any,
) -> list[Listener]:
    """All measures beside the figures, for `evaluate_lora`.

    folder: the evaluation's own, for passages to listen to; parts: without a dataset, memorisation is left out;
    suite_prompts: of the public prompt suite, 0 leaves it out; cache, sampling: as `evaluate_lora` takes them.
    """
    return [
        EffectListener(lora),
        MemorisationListener(folder, parts),
        DamageListener(suite_prompts, cache, **sampling),
        AdherenceListener(),
        *deep_listeners(parts),
    ]


class EffectListener(Listener):
    """Relative norm of the deltas, and the distance of outputs at equal noise, on the base's own songs."""

    title = "Effect on weights and outputs"

    def __init__(self, lora: str | Path, *, strength: float = 1.0) -> None:
        self.lora, self.strength = lora, strength

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Found:
        pipeline.set_lora_weights({lora: 0.0})
        heard = {comparison.prompt: comparison.at(0.0).latents for comparison in comparisons}
        songs = [(prompt, latents) for prompt, latents in heard.items() if latents is not None][:MAX_PROBES]
        try:
            clips = [probe_of(pipeline.family, prompt, latents) for prompt, latents in songs]
            adapter = read_adapter(self.lora, module_shapes(pipeline.family.network))
            effect = measure_effect(pipeline.family, adapter, clips, strength=self.strength, progress=progress)
        except AceStepError as error:
            return [("effect", str(error))]
        rows = [
            *(("outputs at sigma", f"{sigma:.2f}", f"{moved.value:.2%}") for sigma, moved in effect.by_level),
            *(("weights of a part", group, f"{norm:.3%}") for group, norm in effect.by_group.items()),
            *(
                ("weights of a block", f"{stack} {depth}", f"{norm:.3%}")
                for stack, norms in effect.by_depth.items()
                for depth, norm in norms.items()
            ),
        ]
        # Hundreds of modules are no part of a small file; their groups and blocks are.
        details = {key: value for key, value in effect.as_dict().items() if key != "modules"}
        columns = ("Change of", "Where", "Relative")
        return [
            Finding(
                "effect", "Effect", effect.summary, alarm=effect.is_broken, columns=columns, rows=rows, details=details
            )
        ]


class DamageListener(Listener):
    """What is left of the base on the public prompt suite, at each strength, and on edge prompts at the highest."""

    title = "Songs of the prompt suite"

    def __init__(self, prompts: int = SUITE_PROMPTS, cache: SongCache | None = None, **sampling: Any) -> None:
        self.prompts, self.cache, self.sampling = prompts, cache, sampling
        self._identity: Mapping[str, Any] = {}
        self._found: dict[float, Damage] = {}

    def begin(self, pipeline: ACEStepPipeline) -> None:
        self._identity = base_identity(pipeline) if self.cache is not None else {}

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Found:
        if self.prompts == 0:
            return [("damage", "the prompt suite was left out")]
        suite = read_suite()
        strengths = _strengths(comparisons)
        played = {"cache": self.cache, "identity": self._identity, **self.sampling}
        try:
            songs = play_suite(
                pipeline,
                lora,
                suite.first(self.prompts),
                strengths=strengths,
                seeds=SUITE_SEEDS,
                duration_s=SUITE_SONG_S,
                progress=progress,
                **played,
            )
            # Edge prompts are heard where a LoRA is at its strongest.
            strongest = max(strengths)
            edge = play_edge(pipeline, lora, suite.edge, strengths=(strongest,), **played)
            losses = self._losses(pipeline, lora, songs[0.0], strengths)
        except AceStepError as error:
            return [("damage", str(error))]
        for strength in strengths:
            edges = (edge[0.0], edge[strongest]) if strength == strongest else ((), ())
            self._found[strength] = measure_damage(
                songs[0.0], songs[strength], losses=losses.get(strength), edge_base=edges[0], edge_adapted=edges[1]
            )
        rows = [
            (
                f"{strength:g}",
                _amount(found.moved.value if found.moved else None, "{:.2f}"),
                _amount(found.variety.value if found.variety else None, "{:.0%}"),
                _amount(found.told_apart[1] if found.told_apart else None, "{:.0%}"),
                _amount(found.loss_rise.value if found.loss_rise else None, "{:+.1%}"),
                "; ".join(found.harms) or "none measured",
            )
            for strength, found in self._found.items()
        ]
        harmful = [strength for strength, found in self._found.items() if found.harms]
        said = self._found[harmful[0] if harmful else strengths[-1]].summary
        if harmful:
            said = f"At strength {harmful[0]:g}{' and above' if len(harmful) > 1 else ''}: {said}"
        details = {
            "suite": suite.as_dict(),
            "prompts": self.prompts,
            "seeds": list(SUITE_SEEDS),
            "duration_s": SUITE_SONG_S,
            "by_strength": [{"strength": strength, **found.as_dict()} for strength, found in self._found.items()],
        }
        columns = (
            "Strength",
            "Moved, in distances of another seed",
            "Variety left",
            "Prompts told apart",
            "Loss on the base's own songs",
            "Harm",
        )
        return [Finding("damage", "Damage outside the style", said, columns=columns, rows=rows, details=details)]

    def damage(self, strength: float) -> Sequence[str]:
        return self._found[strength].harms if strength in self._found else ()

    @staticmethod
    def _losses(
        pipeline: ACEStepPipeline, lora: str, songs: Sequence[SuiteSong], strengths: Sequence[float]
    ) -> Mapping[float, Any]:
        own = [song for song in songs if song.latents is not None and song.windows is not None]
        clips = [probe_of(pipeline.family, song.prompt, song.latents) for song in own if song.latents is not None]
        return measure_losses(pipeline, lora, strengths, clips) if clips else {}


class AdherenceListener(Listener):
    """Whether songs keep the tempo and the key that their prompts name, at each strength."""

    title = "Tempo and key in prompts"

    def __init__(self) -> None:
        self._heard: dict[tuple[Prompt, int, float], Heard] = {}
        self._found: dict[float, Adherence] = {}

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        heard = hear_music(song.audio.numpy(), song.sample_rate)
        self._heard[comparison.prompt, comparison.seed, take.strength] = heard

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Found:
        for strength in _strengths(comparisons):
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
                _amount(kept.chance, "{:.0%}"),
                str(kept.songs),
            )
            for strength, kept in shown
        ]
        finding = Finding(
            "adherence",
            "Tempo and key in prompts",
            f"Kept less than by the base beyond doubt: {', '.join(lost)}."
            if lost
            else "No song wish was measured to be kept less than by the base.",
            columns=("Wish", "Strength", "Base keeps", "LoRA keeps", "By chance", "Songs"),
            rows=rows,
            details={"by_strength": [{"strength": s, **found.as_dict()} for s, found in self._found.items()]},
        )
        return [finding, *left_out]

    def damage(self, strength: float) -> Sequence[str]:
        found = self._found.get(strength)
        return [f"the {kept.key} in prompts is kept less" for kept in found.kept if kept.is_lost] if found else []


def _strengths(comparisons: Sequence[Comparison]) -> list[float]:
    return sorted({take.strength for comparison in comparisons for take in comparison.takes} - {0.0})


def _amount(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
