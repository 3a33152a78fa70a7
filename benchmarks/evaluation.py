"""Evaluating a LoRA on nano, 8 prompts x 2 seeds x 3 strengths of 10 s, beside a loop that makes each pair anew.

The loop is what one writes for a comparison: for each strength a song of the base and one with the LoRA, kept in memory
until all are there, then measured by the same figures. A second evaluation finds the base's songs in the cache.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from acestep import ACEStepPipeline
from acestep.evaluation import HeldOut, Prompt, SongCache, evaluate_lora
from acestep.evaluation.embedding import embed_windows
from acestep.evaluation.listeners import further_measures
from acestep.evaluation.measures import distance_figure
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.lora.adapter import Adapter, Factors, write_adapter
from acestep.lora.attach import module_shapes

GENRES = ("lofi", "techno", "folk", "jazz", "rock", "ambient", "waltz", "funk")
AIM_S = 180.0


@dataclass(frozen=True)
class Time:
    """What one piece of work took. peak_mb: the process's highest memory until then."""

    wall_s: float
    processor_s: float
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--suite", type=int, default=0, help="prompts of the public suite to look for damage with")
    parser.add_argument("--no-loop", action="store_true", help="leave out the loop to compare with")
    options = parser.parse_args()
    pipeline = ACEStepPipeline.from_pretrained(options.model)
    prompts = [Prompt(prompt=f"{genre}, mellow, 90 bpm, A minor") for genre in GENRES[: options.prompts]]
    seeds, strengths = tuple(range(1, options.seeds + 1)), (0.5, 1.0, 1.5)
    one = timed(lambda: pipeline(prompts[0].prompt, duration=options.duration, seed=1))
    print(f"{options.model}, {torch.get_num_threads()} threads; one song: {told(one)}")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        lora = random_lora(pipeline, root / "lora")
        windows = [embed_windows(torch.randn(2, 441000).numpy(), 44100) for _ in range(4)]

        def ours(name: str) -> None:
            folder = root / name
            folder.mkdir()
            cache = SongCache(root / "cache")
            measures = further_measures(folder, lora=lora, cache=cache, suite_prompts=options.suite)
            evaluate_lora(
                pipeline, lora, prompts, folder=folder, strengths=strengths, seeds=seeds, duration_s=options.duration,
                held_out=HeldOut(windows=windows), cache=cache, listeners=measures,
            )  # fmt: skip

        first, second = timed(lambda: ours("first")), timed(lambda: ours("second"))
        print(f"evaluating it: {told(first)} (aim: {AIM_S:.0f} s on two cores)")
        print(f"again, with the base's songs cached: {told(second)}")
        if options.no_loop:
            return
        loop = timed(lambda: plain_loop(pipeline, lora, prompts, seeds, strengths, options.duration, windows))
        print(f"the loop, which measures style distance alone: {told(loop)}")
        print(f"processor time, loop over ours: {loop.processor_s / first.processor_s:.2f}x,"
              f" with the cache {loop.processor_s / second.processor_s:.2f}x")  # fmt: skip


def plain_loop(
    pipeline: ACEStepPipeline,
    lora: Path,
    prompts: list[Prompt],
    seeds: tuple[int, ...],
    strengths: tuple[float, ...],
    duration_s: float,
    recordings: list[object],
) -> None:
    for strength in strengths:
        comparisons = []
        for prompt in prompts:
            for seed in seeds:
                base = pipeline(prompt.prompt, duration=duration_s, seed=seed)
                name = pipeline.load_lora(lora, strength)
                adapted = pipeline(prompt.prompt, duration=duration_s, seed=seed)
                pipeline.unload_lora(name)
                takes = [
                    Take(at, "", "", duration_s, -20.0, 0.0, 0.5, {}, embed_windows(song.audio.numpy(), 44100))
                    for at, song in ((0.0, base), (strength, adapted))
                ]
                comparisons.append(Comparison(prompt, seed, tuple(takes)))
        distance_figure(comparisons, strength, recordings)


def random_lora(pipeline: ACEStepPipeline, folder: Path) -> Path:
    """A rank-8 LoRA on all attention, small enough to leave music."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: shape for name, shape in module_shapes(pipeline.family.network).items() if ".to_" in name}
    factors = {
        name: Factors(
            0.02 * torch.randn(8, *shape[1:], generator=generator),
            0.02 * torch.randn(shape[0], 8, *[1] * (len(shape) - 2), generator=generator),
        )
        for name, shape in shapes.items()
    }
    return write_adapter(folder, Adapter(factors))


def timed(work: Callable[[], object]) -> Time:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Time(time.perf_counter() - wall, time.process_time() - processor, peak)


def told(found: Time) -> str:
    return f"{found.wall_s:.1f} s, {found.processor_s:.1f} s of processor time, peak {found.peak_mb:.0f} MB"


if __name__ == "__main__":
    main()
