"""One micro-batch of a training step on made-up material, as the loop runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from acestep.families.base import Conditioning, Family
from acestep.lora.attach import TrainableAdapter
from acestep.training.attaching import attached
from acestep.training.objective import Draws, losses_under
from acestep.training.planning.step_settings import StepSettings
from acestep.training.precision import autocast

_LATENT_SHAPE = (8, 16)


@contextmanager
def prepared(family: Family, settings: StepSettings) -> Iterator[TrainableAdapter]:
    """The settings' adapter on the family for the block, with dropout and checkpointing as in training; after it the
    network and torch's random numbers are as they were."""
    devices = [family.device] if family.device.type == "cuda" else []
    form = {"rank": settings.rank, **settings.adapter}
    checkpointing = settings.gradient_checkpointing
    with (
        torch.random.fork_rng(devices=devices),
        attached(family.network, settings.targets, form=form, gradient_checkpointing=checkpointing) as adapter,
    ):
        adapter.drop_out(True)
        yield adapter


def material(example: Conditioning, settings: StepSettings, device: torch.device) -> tuple[Tensor, Conditioning, Draws]:
    """Noise for latents, and conditioning of the settings' lengths -> clean, conditioning, draws, all on `device`.

    example: any conditioning of the family; its widths count and its words do not.
    """
    batch, frames = settings.batch_size, settings.frames
    lengths = {"text_states": settings.text_tokens, "lyric_ids": settings.lyric_tokens}
    lengths |= {"text_mask": settings.text_tokens, "lyric_mask": settings.lyric_tokens}
    lengths["lyric_states"] = settings.lyric_tokens
    tensors = {}
    for name, tensor in example.tensors().items():
        if name == "weakened_text_states":
            continue
        shape = [batch, *tensor.shape[1:]]
        if name in lengths:
            shape[1] = lengths[name]
        tensors[name] = torch.ones(shape, dtype=tensor.dtype, device=device)
    clean = torch.randn(batch, *_LATENT_SHAPE, frames)
    draws = Draws(
        noise=torch.randn(clean.shape), sigmas=torch.full((batch,), 0.5), drops=torch.zeros(batch, 3, dtype=torch.bool)
    )
    return clean.to(device), Conditioning(**tensors), draws


def run_micro_batch(family: Family, settings: StepSettings, given: tuple[Tensor, Conditioning, Draws]) -> None:
    """Forward and backward; gradients add up on the adapter."""
    clean, conditioning, draws = given
    with autocast(family.device, settings.autocast):
        total = losses_under(family.velocity, clean, conditioning, draws).sum() / settings.batch_size
    total.backward()  # type: ignore[no-untyped-call]
