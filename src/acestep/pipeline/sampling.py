"""From conditioning and noise to latents, for each of the released tasks; no files, no audio."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from acestep.diffusion.editing import sample_edit
from acestep.diffusion.guidance import APG_MOMENTUM, Branches, GuidedDenoiser, guidance_scales
from acestep.diffusion.repainting import RepaintPlan, plan_extend, plan_repaint, sample_repaint
from acestep.diffusion.samplers import OnStep, mix_noise, sample_euler, sample_heun, sample_pingpong
from acestep.diffusion.schedules import reference_level, sampling_sigmas, selected_sigmas
from acestep.families.base import Conditioning
from acestep.pipeline.adapted_family import AdaptedFamily
from acestep.pipeline.noise import NoiseSource
from acestep.pipeline.settings import SamplingSettings


def sample_song(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    frames: int,
    *,
    start: Tensor | None = None,
    retake_variance: float = 0.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """A new song, or a retake of one -> latents (batch, 8, 16, frames) float32.

    start: initial noise in place of the seed's own; retake_variance: how far, 0 to 1, that noise is turned towards
    the retake's.
    """
    first = noise.first(frames) if start is None else start
    if retake_variance > 0:
        first = mix_noise(first, noise.retake(frames), retake_variance)
    sigmas = selected_sigmas(settings.oss_steps) if settings.oss_steps else sampling_sigmas(settings.steps)
    return _run(model, conditioning, settings, noise, first, sigmas, on_step)


def sample_from_reference(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    reference: Tensor,
    *,
    strength: float,
    on_step: OnStep | None = None,
) -> Tensor:
    """Audio to audio: start from `reference` (batch, 8, 16, frames) under noise.

    At strength 0 it is drowned, near 1 it is kept.
    """
    sigma_max = 1 - strength
    level = reference_level(sigma_max)
    steps = max(int(sigma_max * settings.steps), 1)
    first = noise.first(reference.shape[-1])
    start = (1 - level) * reference.to(first) + level * first
    shortened = replace(settings, steps=steps, oss_steps=())
    return _run(model, conditioning, shortened, noise, start, sampling_sigmas(steps, sigma_max=sigma_max), on_step)


def sample_repainted(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    source: Tensor,
    *,
    start: int,
    end: int,
    variance: float,
    on_step: OnStep | None = None,
) -> Tensor:
    """Make frames [start, end) of `source` anew.

    With a variance below 1 the first steps are left out, so more of the old shines through.
    """
    frames = source.shape[-1]
    first, fresh = noise.first(frames), noise.retake(frames)
    plan = plan_repaint(source.to(first), first, fresh, start=start, end=end, variance=variance)
    return _run_plan(model, conditioning, settings, plan, variance, on_step)


def sample_extended(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    source: Tensor,
    *,
    left: int,
    right: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Grow `source` by `left` and `right` frames -> latents (batch, 8, 16, left + frames + right)."""
    frames = source.shape[-1]
    first = noise.first(frames)
    fresh = noise.retake(max(frames, left, right))  # the released code cannot grow a song by more than its own length
    plan = plan_extend(source.to(first), first, fresh, left=left, right=right)
    return _run_plan(model, conditioning, settings, plan, 1.0, on_step)


def sample_edited(
    model: AdaptedFamily,
    conditioning: Conditioning,
    target: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    source: Tensor,
    *,
    n_min: float,
    n_max: float,
    n_avg: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Flow edit of `source` from what `conditioning` says to what `target` says.

    Guided at every step, ERG left out, as released.
    """
    calls = settings.steps * n_avg
    frames, device = source.shape[-1], model.device
    source_branches = model.branches(conditioning, frames=frames, masked_null=True)
    target_branches = model.branches(target, frames=frames, masked_null=True)

    def guided(branches: Branches, momentum: float) -> GuidedDenoiser:
        scale = None if settings.guidance_scale in (0.0, 1.0) else settings.guidance_scale
        return GuidedDenoiser(branches, [scale] * calls, settings.guidance, momentum=momentum)

    return sample_edit(
        guided(source_branches, APG_MOMENTUM),
        guided(target_branches, 0.0),
        guided(target_branches, APG_MOMENTUM),
        source.to(device, torch.float32),
        sampling_sigmas(settings.steps),
        draw_noise=lambda: noise.retake(frames).to(device),
        n_min=n_min,
        n_max=n_max,
        n_avg=n_avg,
        on_step=on_step,
    )


def _run(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    noise: NoiseSource,
    start: Tensor,
    sigmas: Tensor,
    on_step: OnStep | None,
) -> Tensor:
    start = start.to(model.device, torch.float32)
    calls = 2 * settings.steps - 1 if settings.scheduler == "heun" else settings.steps
    denoise = _guided(model, conditioning, settings, calls, start.shape[-1])
    if settings.scheduler == "pingpong":
        frames = start.shape[-1]
        return sample_pingpong(
            denoise, start, sigmas, draw_noise=lambda: noise.fresh(frames).to(start), on_step=on_step
        )
    sampler = sample_heun if settings.scheduler == "heun" else sample_euler
    return sampler(denoise, start, sigmas, omega_scale=settings.omega_scale, on_step=on_step)


def _run_plan(
    model: AdaptedFamily,
    conditioning: Conditioning,
    settings: SamplingSettings,
    plan: RepaintPlan,
    variance: float,
    on_step: OnStep | None,
) -> Tensor:
    device = model.device
    placed = RepaintPlan(plan.source.to(device), plan.mask.to(device), plan.noise.to(device))
    skipped = min(int(settings.steps * (1 - variance)), settings.steps - 1)
    denoise = _guided(model, conditioning, settings, settings.steps, plan.source.shape[-1])
    denoise.call = skipped
    return sample_repaint(denoise, placed, sampling_sigmas(settings.steps), skipped=skipped, on_step=on_step)


def _guided(
    model: AdaptedFamily, conditioning: Conditioning, settings: SamplingSettings, calls: int, frames: int
) -> GuidedDenoiser:
    scales = guidance_scales(
        settings.steps,
        settings.guidance_scale,
        interval=settings.guidance_interval,
        decay=settings.guidance_interval_decay,
        min_guidance_scale=settings.min_guidance_scale,
        calls=calls,
    )
    branches = model.branches(conditioning, frames=frames, erg=settings.erg, text_only=settings.guidance == "double")
    return GuidedDenoiser(
        branches,
        scales,
        settings.guidance,
        text_scale=settings.text_scale,
        lyric_scale=settings.lyric_scale,
    )
