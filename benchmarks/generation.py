"""How long a song takes, part by part, beside a loop that encodes its conditioning again at each step.

The aim for nano: 30 s of music in at most 5 s on two cores at 27 steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acestep import ACEStepPipeline
from acestep.diffusion.guidance import Branches, GuidedDenoiser, guidance_scales
from acestep.diffusion.samplers import sample_euler
from acestep.diffusion.schedules import sampling_sigmas
from acestep.families import Conditioning, Family

PROMPT = "lofi, mellow, electric piano, 82 bpm, A minor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--duration", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=27)
    parser.add_argument("--rounds", type=int, default=3, help="the best of these counts")
    options = parser.parse_args()

    started = time.perf_counter()
    pipe = ACEStepPipeline.from_pretrained(options.model)
    print(f"load:            {time.perf_counter() - started:6.2f} s")
    song = {"prompt": PROMPT, "duration": options.duration, "seed": 1, "steps": options.steps}
    whole = best_of(options.rounds, lambda: pipe(**song))
    latents = pipe(**song, output_type="latents")
    decoding = best_of(options.rounds, lambda: pipe.family.decode_latents(latents))
    plain = best_of(options.rounds, lambda: sample_plainly(pipe.family, options.duration, options.steps))
    sampling = whole - decoding
    speed = options.duration / whole
    print(f"whole song:      {whole:6.2f} s for {options.duration:g} s of music, {speed:.1f} times real time")
    print(f"  sampling:      {sampling:6.2f} s")
    print(f"  decoding:      {decoding:6.2f} s")
    print(f"plain sampling:  {plain:6.2f} s (conditioning encoded at each step)")
    print(f"ratio of sampling: {plain / sampling:.2f}x")


def best_of(rounds: int, run: Callable[[], Any]) -> float:
    """Seconds of the fastest of `rounds` runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@torch.no_grad()
def sample_plainly(family: Family, duration_s: float, steps: int) -> Tensor:
    """The loop that people write first: both branches through the whole network at each step."""
    conditioning = family.encode_prompt([PROMPT], [""])
    null = Conditioning(**{name: value * 0 for name, value in conditioning.tensors().items()})
    null = Conditioning(**{**null.tensors(), "text_mask": conditioning.text_mask})
    noise = torch.randn(1, 8, 16, family.latent_frames(duration_s), device=family.device)

    def both(latents: Tensor, sigma: float) -> tuple[Tensor, ...]:
        level = torch.full((1,), sigma, device=latents.device)
        return family.velocity(latents, level, conditioning), family.velocity(latents, level, null)

    def conditional(latents: Tensor, sigma: float) -> Tensor:
        return family.velocity(latents, torch.full((1,), sigma, device=latents.device), conditioning)

    defaults = family.sampling
    scales = guidance_scales(steps, defaults.guidance_scale, interval=defaults.guidance_interval)
    denoise = GuidedDenoiser(Branches(conditional, both), scales, defaults.guidance)
    return sample_euler(denoise, noise, sampling_sigmas(steps), omega_scale=defaults.omega_scale)


if __name__ == "__main__":
    main()
