"""What the full-size v1 needs before a note is heard, what it needs to train, and what its steps take.

Parameters and bytes are counted from the released sizes: nothing is downloaded, and without --run or --measure nothing
is allocated either. --train counts a step of a rank-32 adapter on 60 s of music, beside one without checkpointing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from acestep.diffusion.guidance import Branches, GuidedDenoiser, guidance_scales
from acestep.diffusion.samplers import sample_euler
from acestep.diffusion.schedules import sampling_sigmas
from acestep.families.v1 import V1Family
from acestep.lora import attach_trainable, find_targets, module_shapes
from acestep.models.quantization import quantizable, quantize_layer
from acestep.models.v1 import ACEStepTransformer, TransformerConfig, unread_names
from acestep.training.planning.live_memory import LiveMemory

RELEASED_TRANSFORMER = 3_305_659_264
"""Elements stored in the released transformer file (reference manifest)."""
OTHERS = {"autoencoder": 156_812_426, "vocoder": 103_138_386, "text encoder": 281_861_376}
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
AIMS_GB = {"bf16": 8.0, "int8": 6.0}
TEXT_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", action="store_true", help="also time steps with random weights; wants a GPU or patience"
    )
    parser.add_argument("--train", action="store_true", help="count what a training step holds")
    parser.add_argument("--measure", action="store_true", help="with --train: also do a step of the first base")
    parser.add_argument("--bases", nargs="+", choices=("bf16", "int8", "nf4"), default=("bf16", "int8", "nf4"))
    parser.add_argument("--rank", type=int, default=32, help="of the adapter for --train")
    parser.add_argument("--lyrics", type=int, default=512, help="lyric tokens for --train")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of music for --run and --train")
    parser.add_argument("--steps", type=int, default=27, help="sampler steps for --run")
    options = parser.parse_args()

    config = TransformerConfig(num_layers=24, num_attention_heads=20, attention_head_dim=128, ssl_encoder_depths=(8, 8),
                               ssl_latent_dims=(1024, 768))  # fmt: skip
    with torch.device("meta"):
        network = ACEStepTransformer(config)
    kept = sum(parameter.numel() for parameter in network.parameters())
    for name, count in (("stored", RELEASED_TRANSFORMER), ("kept", kept)):
        print(f"transformer, {name + ':':12} {count / 1e9:6.3f} G parameters, {count * 2 / 1e9:5.2f} GB in bf16")
    print(f"saved by unread weights:  {1 - kept / RELEASED_TRANSFORMER:6.1%} ({len(unread_names(config))} tensors)")
    for name, count in OTHERS.items():
        print(f"{name + ':':25} {count / 1e9:6.3f} G parameters")
    if options.train:
        shape = StepShape(int(options.duration * 44100 / 4096), options.lyrics, options.rank)
        count_steps(config, shape, options.bases)
        if options.measure:
            measure_step(config, shape, options.bases[0])
    if options.run:
        run(config, options.duration, options.steps)


@dataclass(frozen=True)
class StepShape:
    """What a training step sees."""

    frames: int
    lyrics: int
    rank: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step's tensors take: what stays, what the forward pass leaves for the backward pass, the peaks."""

    base: int
    adapter: int
    optimizer: int
    saved: int
    gradients: int
    peaks: dict[str, int]
    largest: list[tuple[str, int]]

    @property
    def peak(self) -> int:
        return max(self.peaks.values())


def count_steps(config: TransformerConfig, shape: StepShape, bases: list[str]) -> None:
    """Steps that compute nothing, so that no memory is needed to count it."""
    print(f"\na training step, counted: {shape.frames} frames, {shape.lyrics} lyric tokens, rank {shape.rank}, in GB")
    print(
        f"{'base':6} {'checkpoints':12}{'weights':>8}{'adapter':>8}{'AdamW':>7}{'saved':>7}{'grads':>7}{'peak':>7}  aim"
    )
    with FakeTensorMode():
        for base in bases:
            for checkpointing in (True, False):
                memory = step_memory(config, shape, base, checkpointing=checkpointing)
                parts = (memory.base, memory.adapter, memory.optimizer, memory.saved, memory.gradients, memory.peak)
                row = "".join(f"{part / 1e9:{width}.2f}" for part, width in zip(parts, (8, 8, 7, 7, 7, 7), strict=True))
                aim = f"{AIMS_GB[base]:g}" if base in AIMS_GB and checkpointing else "-"
                print(f"{base:6} {'yes' if checkpointing else 'no':12}{row}  {aim}")
                if checkpointing:
                    peaks = ", ".join(f"{phase} {size / 1e9:.2f}" for phase, size in memory.peaks.items())
                    print(f"       peaks: {peaks}; the largest at the peak besides the weights:")
                    for kind, size in memory.largest[:6]:
                        print(f"       {size / 1e6:7.1f} MB {kind}")
    codec, text = (OTHERS["autoencoder"] + OTHERS["vocoder"]) * 4, OTHERS["text encoder"] * 2
    print(f"beside it, if left on the device: codec {codec / 1e9:.2f} GB, text encoder {text / 1e9:.2f} GB")


def step_memory(
    config: TransformerConfig,
    shape: StepShape,
    base: str,
    *,
    checkpointing: bool = True,
    device: str = "cpu",
    count: bool = True,
) -> StepMemory:
    """The third of three steps is as all that follow; here the optimizer's first makes its state, the second counts."""
    network, parameters = prepare(config, shape, base, device)
    network.gradient_checkpointing = checkpointing
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    states = [value for state in optimizer.state.values() for value in state.values()]
    counter, peaks = LiveMemory(describe=True), {}
    with counter if count else nullcontext():
        adapter = counter.hold(parameters, "adapter")
        held = counter.hold([*network.parameters(), *network.buffers()], "base"), adapter, counter.hold(states, "AdamW")
        loss = step_loss(network, shape, device)
        saved, peaks["forward"] = counter.bytes - sum(held), counter.peak_bytes
        counter.peak_bytes = counter.bytes
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        gradients, peaks["backward"] = counter.bytes - sum(held), counter.peak_bytes
        counter.peak_bytes = counter.bytes
        optimizer.step()
        peaks["AdamW"] = counter.peak_bytes
    largest = [item for item in counter.at_peak.most_common() if item[0] not in ("base", "adapter", "AdamW")]
    return StepMemory(*held, saved, gradients, peaks, largest)


def prepare(
    config: TransformerConfig, shape: StepShape, base: str, device: str
) -> tuple[ACEStepTransformer, list[torch.nn.Parameter]]:
    """The network in bfloat16 from the start, since float32 would need twice the memory, and a fresh adapter on it."""
    with default_dtype(torch.bfloat16), torch.device(device):
        network = ACEStepTransformer(config).eval().requires_grad_(False)
    if base != "bf16":
        for name in quantizable(network, base):  # type: ignore[arg-type]
            quantize_layer(network, name, base)  # type: ignore[arg-type]
    modules = find_targets(module_shapes(network), TARGETS, V1Family.lora_aliases)
    adapter = attach_trainable(network, modules, rank=shape.rank, alpha=shape.rank, dropout=0.1)
    adapter.drop_out(True)
    return network, list(adapter.parameters().values())


def step_loss(network: ACEStepTransformer, shape: StepShape, device: str) -> torch.Tensor:
    """Of random latents under a random prompt, as the loop computes it under autocast."""
    with torch.device(device):
        clean, noise = torch.randn(1, 8, 16, shape.frames), torch.randn(1, 8, 16, shape.frames)
        text, lyrics = torch.randn(1, TEXT_TOKENS, 768), torch.randint(1, 6000, (1, shape.lyrics))
        masks = torch.ones(1, TEXT_TOKENS), torch.ones(1, shape.lyrics)
        speaker, timesteps = torch.zeros(1, 512), torch.full((1,), 500.0)
    with torch.autocast(device, dtype=torch.bfloat16):
        encoded = network.encode_conditioning(text, masks[0], speaker, lyrics, masks[1])
        velocity = network(0.5 * (clean + noise), timesteps, encoded)
    squares: torch.Tensor = (velocity.float() - (noise - clean)).square().mean()
    return squares


def measure_step(config: TransformerConfig, shape: StepShape, base: str) -> None:
    """A real step: what the GPU's allocator, or else the process, held at most."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Tables that a counted step left in caches have no numbers in them.
    forget_tables()
    network, parameters = prepare(config, shape, base, device)
    network.gradient_checkpointing = True
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    before = resident_bytes("VmRSS")
    reset_peak(device)
    for turn in range(2):
        start = time.perf_counter()
        step_loss(network, shape, device).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"measured step {turn + 1} on {device}, {base}: {time.perf_counter() - start:.1f} s")
    if device == "cuda":
        print(f"peak: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB of tensors")
        return
    peak = resident_bytes("VmHWM")
    print(f"the process: {before / 1e9:.2f} GB resident before the steps, {peak / 1e9:.2f} GB at most in them")


def forget_tables() -> None:
    from acestep.models import quantization
    from acestep.models.v1 import lyric_encoder, rotary

    cached: tuple[Any, ...] = (
        quantization._pairs_of_levels, rotary.rotary_tables, lyric_encoder.relative_positions
    )  # fmt: skip
    for table in cached:
        table.cache_clear()


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(config: TransformerConfig, duration_s: float, steps: int) -> None:
    """Sampling with random weights, with keys and values of the cross attention cached and not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with torch.device(device):
        network = ACEStepTransformer(config).to(torch.bfloat16).eval()
        frames = int(duration_s * 44100 / 4096)
        noise = torch.randn(1, 8, 16, frames)
        encoded = network.encode_conditioning(
            torch.randn(2, 32, 768, dtype=torch.bfloat16), torch.ones(2, 32), torch.zeros(2, 512),
            torch.randint(1, 6000, (2, 256)), torch.ones(2, 256),
        )  # fmt: skip
        cache = network.cross_attention_cache(encoded)
    seconds = {}
    for name, context in (("not cached", encoded), ("cached", cache)):
        start = time.perf_counter()
        with torch.no_grad():
            sample_euler(guided(network, context, steps), noise, sampling_sigmas(steps))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - start
        print(f"{steps} guided steps, {duration_s:g} s, {name}: {seconds[name]:.2f} s")
    print(f"ratio: {seconds['not cached'] / seconds['cached']:.2f}x")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def guided(network: ACEStepTransformer, context: object, steps: int) -> GuidedDenoiser:
    def both(latents: torch.Tensor, sigma: float) -> tuple[torch.Tensor, ...]:
        timesteps = torch.full((2,), 1000 * sigma, device=latents.device)
        velocities: torch.Tensor = network(latents.repeat(2, 1, 1, 1), timesteps, context)
        return velocities.chunk(2)

    return GuidedDenoiser(Branches(lambda x, s: both(x, s)[0], both), guidance_scales(steps, 15.0, interval=1.0))


if __name__ == "__main__":
    main()
