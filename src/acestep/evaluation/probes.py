"""Passages to measure a network on where there are no recordings: what the base itself makes of prompts.

Sampled without guidance in a few steps, through the velocity that training uses, so that every family can give them; a
song that was made anyway serves as well. Four seconds of a prompt on nano take about half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from acestep.datasets.seeding import derived_generator
from acestep.diffusion.schedules import shift_sigmas
from acestep.errors import InputError
from acestep.evaluation.held_out import HeldOutClip
from acestep.evaluation.prompts import Prompt
from acestep.families.base import Family

STEPS = 16
LATENT_SHAPE = (8, 16)


def probe_of(family: Family, prompt: Prompt, latents: Tensor) -> HeldOutClip:
    """A song's latents, (1, 8, 16, frames) or (8, 16, frames), with the prompt that it was made from.

    Songs of one prompt and lyrics count as one observation.
    """
    conditioning = family.encode_prompt([prompt.prompt], [prompt.lyrics])
    return HeldOutClip(f"{prompt.prompt}\n{prompt.lyrics}", latents.reshape(latents.shape[-3:]).float(), conditioning)


@torch.no_grad()
def make_probes(
    family: Family,
    prompts: Sequence[Prompt],
    *,
    duration_s: float = 4.0,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> list[HeldOutClip]:
    """One passage a prompt, by the network as it is: attach nothing, or turn it off, to hear the base.

    InputError for no prompts, or where the network gives NaN. `progress` hears (prompts done, prompts).
    """
    if not prompts:
        raise InputError("there are no prompts to make passages from; give at least one")
    sigmas = shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), family.noise.shift).float()
    frames, probes = max(1, family.latent_frames(duration_s)), []
    for index, prompt in enumerate(prompts):
        noise = torch.randn(1, *LATENT_SHAPE, frames, generator=derived_generator(seed, "probe", index))
        probe = probe_of(family, prompt, noise)
        latents, conditioning = noise.to(family.device), probe.conditioning.to(family.device)
        for level, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
            velocity = family.velocity(latents, torch.full((1,), level, device=latents.device), conditioning)
            latents = latents + (following - level) * velocity.float()
        if not torch.isfinite(latents).all():
            raise InputError(
                f"the base model itself gives NaN for {prompt.prompt!r}; its weights or its precision are at fault"
            )
        probes.append(HeldOutClip(probe.recording, latents[0].cpu(), probe.conditioning))
        if progress is not None:
            progress(index + 1, len(prompts))
    return probes
