"""Stage 4: the diffusion transformer with its lyric encoder and its text encoder, trained together from nothing.

Velocity loss under v1's logit-normal noise levels. Activations and gradients are bfloat16 in a working copy of the
weights, which
is what a CPU with AMX multiplies fast; the weights themselves and their average stay float32.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import UMT5Config, UMT5EncoderModel

from acestep.diffusion.flow_matching import add_noise, logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.models.v1 import ACEStepTransformer, TransformerConfig
from acestep.models.v1.attention import LinearSelfAttention, QueryFactor, relu_linear_attention
from acestep.models.v1.rotary import RotaryTables, apply_rotary
from acestep.models.v1.transformer import PatchEmbedding
from recipes.nano.checkpoints import WeightAverage, cosine_rate, load_state, save_state
from recipes.nano.optimizers import Muon
from recipes.nano.songs import Batch, SongBook
from recipes.nano.tokenizers import TEMPOS

TEXT_WIDTH = 128
# Dropping prompt and lyrics together is what guidance contrasts with; dropping one alone teaches it to do without.
DROP_BOTH, DROP_TEXT, DROP_LYRICS = 0.1, 0.04, 0.04


class Nano(nn.Module):
    """The transformer and the text encoder as one thing to train."""

    def __init__(self, prompt_vocabulary: int, lyric_vocabulary: int) -> None:
        super().__init__()
        self.transformer = ACEStepTransformer(transformer_config(lyric_vocabulary))
        self.text_encoder = UMT5EncoderModel(text_config(prompt_vocabulary))

    def forward(self, batch: Batch, noisy: Tensor, sigmas: Tensor, dropped: Tensor) -> Tensor:
        """Velocity. dropped: (batch,) uniform numbers that decide which conditioning is left out."""
        text = self.text_encoder(input_ids=batch.text_ids, attention_mask=batch.text_mask).last_hidden_state
        without_text = dropped < DROP_BOTH + DROP_TEXT
        without_lyrics = (dropped < DROP_BOTH) | (dropped > 1 - DROP_LYRICS)
        # As at inference: a prompt left out is zeros under its mask, lyrics left out are ids 0 with their mask or
        # without.
        text = text * ~without_text.view(-1, 1, 1)
        lyric_ids = batch.lyric_ids * ~without_lyrics.view(-1, 1)
        lyric_mask = batch.lyric_mask * ~(dropped > 1 - DROP_LYRICS).view(-1, 1)
        speaker = torch.zeros(len(noisy), self.transformer.config.speaker_embedding_dim, device=noisy.device)
        conditioning = self.transformer.encode_conditioning(text, batch.text_mask, speaker, lyric_ids, lyric_mask)
        return self.transformer(noisy, 1000 * sigmas, conditioning)


class HalfPrecisionAttention(LinearSelfAttention):
    """The same linear attention without leaving bfloat16: the matrix products still add up in float32.

    Good enough for noisy gradients over a minute of music, and a fifth of a step cheaper; the model is run without it.
    """

    def forward(
        self, x: Tensor, rotary: RotaryTables, frame_mask: Tensor | None, query_factor: QueryFactor | None
    ) -> Tensor:
        tables = (rotary[0].to(x.dtype), rotary[1].to(x.dtype))
        query = apply_rotary(self.split_heads(self.to_q(x)), tables)
        key = apply_rotary(self.split_heads(self.to_k(x)), tables)
        return self.project_out(relu_linear_attention(query, key, self.split_heads(self.to_v(x))))


class HalfPrecisionPatch(PatchEmbedding):
    """The same patch embedding as linear layers.

    On CPUs with AMX, torch 2.13's bfloat16 convolution with a kernel of (16, 1) returns numbers that have nothing to
    do with its
    input; the loss then stays where it is for a model that does not see its latents.
    """

    def forward(self, latents: Tensor) -> Tensor:
        first, norm, second = self.early_conv_layers
        columns = latents.flatten(1, 2).transpose(1, 2)
        hidden = F.linear(columns, first.weight.flatten(1), first.bias).transpose(1, 2)
        normed = F.group_norm(hidden.float(), norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps).to(
            hidden.dtype
        )
        return F.linear(normed.transpose(1, 2), second.weight.flatten(1), second.bias)


def transformer_config(lyric_vocabulary: int) -> TransformerConfig:
    """8 blocks of width 256 with heads of 64; 7.7 million parameters."""
    return TransformerConfig(
        num_layers=8, num_attention_heads=4, attention_head_dim=64, patch_hidden_channels=512, mlp_ratio=1.5,
        text_embedding_dim=TEXT_WIDTH, lyric_encoder_vocab_size=lyric_vocabulary, lyric_hidden_size=64,
        lyric_encoder_output_size=64,
        lyric_encoder_attention_heads=2, lyric_encoder_linear_units=192, lyric_encoder_num_blocks=2,
        lyric_encoder_dropout=0.0,
    )  # fmt: skip


def text_config(vocabulary: int) -> UMT5Config:
    """Two layers are enough to bind "A" to "minor" and "electric" to "piano"."""
    return UMT5Config(
        vocab_size=vocabulary, d_model=TEXT_WIDTH, d_kv=32, d_ff=256, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=1,
        dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip


def build_nano(prompt_tokens: dict[str, int], lyric_vocabulary: int) -> Nano:
    """Fresh weights. Tempos start as smooth waves of their logarithm, so that neighbours learn from each other."""
    torch.manual_seed(0)
    model = Nano(len(prompt_tokens), lyric_vocabulary)
    transformer = model.transformer
    with torch.no_grad():
        transformer.t_block[1].weight.zero_()
        transformer.t_block[1].bias.zero_()
        for block in transformer.transformer_blocks:
            block.scale_shift_table.zero_()
            block.scale_shift_table[2::3] = 0.5
        transformer.final_layer.linear.weight.zero_()
        transformer.final_layer.linear.bias.zero_()
        embedding = model.text_encoder.shared.weight
        embedding.normal_(std=1.0)
        rates = torch.tensor([0.5 * 1.35**i for i in range(TEXT_WIDTH // 4)])
        for tempo in TEMPOS:
            angles = 2 * math.pi * math.log2(tempo / 40) * rates
            waves = torch.cat([angles.cos(), angles.sin()]) * math.sqrt(2)
            embedding[prompt_tokens[str(tempo)], : len(waves)] = waves
    return model


def train_transformer(
    model: Nano, book: SongBook, checkpoint: Path, *, steps: int, frames_per_step: int, device: torch.device,
    seconds: float = float("inf"),
    matrix_rate: float = 0.02, other_rate: float = 2e-3,
) -> Nano:  # fmt: skip
    """Train for `steps`, or until `seconds` have passed: the learning rate falls by whichever is nearer its end."""
    model.to(device)
    matrices, others = _split(model)
    muon = Muon(matrices, lr=matrix_rate)
    adam = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)
    average = WeightAverage(model, 0.9985)
    done, spent = 0, 0.0
    if (state := load_state(checkpoint)) is not None:
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        average.weights, average.updates, done, spent = state["average"], state["step"], state["step"], state["spent"]
    working = copy.deepcopy(model).bfloat16()
    working.transformer.proj_in.__class__ = HalfPrecisionPatch
    for block in working.transformer.transformer_blocks:
        block.attn.__class__ = HalfPrecisionAttention
    pairs = list(zip(model.parameters(), working.parameters(), strict=True))
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    levels = training_sigmas()
    began, elapsed, reported, total, count = time.time() - spent, spent, time.time(), 0.0, 0
    for step in range(done, steps):
        progress = max(step / steps, elapsed / seconds)
        rate = cosine_rate(int(progress * steps), steps, warmup=0, floor=0.01) * min(1.0, (step + 1) / 100)
        for optimizer, peak in ((muon, matrix_rate), (adam, other_rate)):
            for group in optimizer.param_groups:
                group["lr"] = rate * peak
        generator = torch.Generator().manual_seed(step * ranks + rank)
        loss = _loss(working, book.draw(step, frames_per_step // ranks, rank=rank), levels, generator, device)
        loss.backward()
        mean_loss, elapsed = _share_gradients(pairs, loss.item(), time.time() - began)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step()
        adam.step()
        average.update(model)
        with torch.no_grad():
            torch._foreach_copy_([copied for _, copied in pairs], [own for own, _ in pairs])
        total, count = total + mean_loss, count + 1
        finished = step + 1 == steps or elapsed >= seconds
        if rank == 0 and (step + 1) % 50 == 0:
            print(
                f"transformer {step + 1}/{steps}: velocity loss {total / count:.4f}, "
                f"{(time.time() - reported) / count:.3f} s/step, {elapsed:.0f} s",
                flush=True,
            )
            reported, total, count = time.time(), 0.0, 0
        if rank == 0 and ((step + 1) % 250 == 0 or finished):
            save_state(
                checkpoint, model=model.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(),
                average=average.weights, step=step + 1,
                spent=elapsed,
            )  # fmt: skip
        if finished:
            break
    average.copy_to(model)
    return model.eval()


def _share_gradients(
    pairs: list[tuple[nn.Parameter, nn.Parameter]], loss: float, elapsed: float
) -> tuple[float, float]:
    """Give every weight its mean gradient over all processes. -> mean loss, the first process's clock"""
    grads = [copied.grad if copied.grad is not None else torch.zeros_like(copied) for _, copied in pairs]
    flat = torch.cat([grad.flatten() for grad in grads]).float()
    ranks, first = 1, True
    if dist.is_initialized():
        ranks, first = dist.get_world_size(), dist.get_rank() == 0
        numbers = torch.tensor([loss, elapsed if first else 0.0], dtype=torch.float64)
        dist.all_reduce(flat)
        dist.all_reduce(numbers)
        loss, elapsed = float(numbers[0]) / ranks, float(numbers[1])
    for (own, copied), grad in zip(pairs, (flat / ranks).split([grad.numel() for grad in grads]), strict=True):
        own.grad = grad.view_as(own)
        copied.grad = None
    return loss, elapsed


def _loss(model: Nano, batch: Batch, levels: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
    batch = Batch(*(tensor.to(device) for tensor in vars(batch).values()))
    clean = batch.latents
    sigmas = logit_normal_sigmas(torch.randn(len(clean), generator=generator), levels).to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    dropped = torch.rand(len(clean), generator=generator).to(device)
    # Plain attention is a third faster here than the fused kernel's backward pass: the token sequences are short.
    with sdpa_kernel(SDPBackend.MATH):
        velocity = model(batch, add_noise(clean, noise, sigmas), sigmas, dropped)
    return (velocity - (noise - clean)).square().mean()


def _split(model: Nano) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices for Muon; embeddings, first and last layers, norms and depthwise filters for AdamW."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = "transformer_blocks" in name or "lyric_encoder.encoders" in name or "encoder.block" in name
        is_matrix = (
            parameter.ndim >= 2
            and min(parameter.shape[0], parameter[0].numel()) >= 32
            and "table" not in name
            and "bias" not in name
        )
        (matrices if hidden and is_matrix else others).append(parameter)
    return matrices, others
