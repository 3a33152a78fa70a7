"""The prompt suite from end to end: its songs with the base and at each strength, and what each strength costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from acestep.evaluation.damage import Damage, measure_damage
from acestep.evaluation.held_out import HeldOutClip, LossComparison, clip_losses, compare_losses, training_levels
from acestep.evaluation.probes import probe_of
from acestep.evaluation.song_cache import SongCache
from acestep.evaluation.suite import EdgePrompt, SuitePrompt
from acestep.evaluation.suite_songs import SuiteSong, play_edge, play_suite
from acestep.pipeline import ACEStepPipeline

Progress = Callable[[int, int], None]


def damage_by_strength(
    pipeline: ACEStepPipeline,
    lora: str,
    prompts: Sequence[SuitePrompt],
    edge: Sequence[EdgePrompt] = (),
    *,
    strengths: Sequence[float],
    seeds: Sequence[int] = (1, 2),
    duration_s: float = 10.0,
    cache: SongCache | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **sampling: Any,
) -> dict[float, Damage]:
    """For each strength but 0 what it does to prompts outside the style.

    lora: the name that `pipeline.load_lora` gave; it is left at strength 0. prompts, edge: of `suite.read_suite`;
    cache, identity: as `generate_comparisons` takes them. `progress` hears (songs done, songs), edge songs included;
    the losses after them take as long as a few songs.
    """
    chosen = tuple(dict.fromkeys(strength for strength in strengths if strength))
    per_prompt = 1 + len(chosen)
    main, total = len(prompts) * len(seeds) * per_prompt, (len(prompts) * len(seeds) + len(edge)) * per_prompt
    tell = progress or (lambda _done, _total: None)
    keep: dict[str, Any] = {"cache": cache, "identity": identity, **sampling}
    songs = play_suite(
        pipeline, lora, prompts, strengths=chosen, seeds=seeds, duration_s=duration_s,
        progress=lambda done, _: tell(done, total), **keep,
    )  # fmt: skip
    at_the_edge = play_edge(
        pipeline, lora, edge, strengths=chosen, progress=lambda done, _: tell(main + done, total), **keep
    )
    losses = losses_on_own_songs(pipeline, lora, songs[0.0], chosen)
    return {
        strength: measure_damage(
            songs[0.0],
            songs[strength],
            losses=losses.get(strength),
            edge_base=at_the_edge[0.0],
            edge_adapted=at_the_edge[strength],
        )
        for strength in chosen
    }


def losses_on_own_songs(
    pipeline: ACEStepPipeline, lora: str, songs: Sequence[SuiteSong], strengths: Sequence[float]
) -> dict[float, LossComparison]:
    """How well each strength predicts the base's own songs, one a prompt; none where the loss is not finite.

    songs: the base's, with their latents. Noise and levels are equal for all strengths.
    """
    first: dict[tuple[str, str], HeldOutClip] = {}
    for song in songs:
        key = (song.prompt.prompt, song.prompt.lyrics)
        if song.latents is not None and key not in first:
            first[key] = probe_of(pipeline.family, song.prompt, song.latents)
    clips = list(first.values())
    if not clips:
        return {}
    sigmas, measured = training_levels(pipeline.family), {}
    for strength in (*strengths, 0.0):
        pipeline.set_lora_weights({lora: strength})
        measured[strength] = clip_losses(pipeline.family, clips, sigmas)
    return {
        strength: compare_losses(measured[0.0], losses, sigmas, clips)
        for strength, losses in measured.items()
        if strength and np.isfinite(losses).all()
    }
