"""What the full-size v1 needs before a note is heard, and what leaving unread weights on disk saves.

Parameters and bytes are counted on the meta device from the released sizes: nothing is downloaded or allocated.
"""

from __future__ import annotations

import argparse
import time

import torch

from acestep.diffusion.guidance import Branches, GuidedDenoiser, guidance_scales
from acestep.diffusion.samplers import sample_euler
from acestep.diffusion.schedules import sampling_sigmas
from acestep.models.v1 import ACEStepTransformer, TransformerConfig, unread_names

RELEASED_TRANSFORMER = 3_305_659_264
"""Elements stored in the released transformer file (reference manifest)."""
OTHERS = {"autoencoder": 156_812_426, "vocoder": 103_138_386, "text encoder": 281_861_376}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--run", action="store_true", help="also time steps with random weights; wants a GPU or patience"
    )
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of music for --run")
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
    if options.run:
        run(config, options.duration, options.steps)


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
