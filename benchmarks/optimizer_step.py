"""What the end of a training step costs for a full-size adapter: clip, move, average, forget.

Ours beside what a plain loop does (torch's AdamW as it comes, clip_grad_norm_ and zero_grad), and torch's AdamW in
loops. The shapes are those of rank 32 on attention and feed-forward of v1's 24 blocks. Seconds are the processor's own
on a CPU, so that other programs beside this one do not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from acestep.training.optimization import Optimization, OptimizationSettings
from acestep.training.optimizers import ADAM_BETAS, ADAM_EPS

WIDTH, HIDDEN = 2560, 6400
# Inputs and outputs of what LoRA sits on in one block: two attentions, and a feed-forward of 1x1 convolutions.
MODULES = {
    **{f"attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"cross_attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    "ff.inverted_conv.conv": (WIDTH, 2 * HIDDEN),
    "ff.point_conv.conv": (HIDDEN, WIDTH),
}

Parameters = Mapping[str, nn.Parameter]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind; the median counts")
    parser.add_argument("--skip", nargs="*", default=[], help="rows to leave out: adamw_8bit, prodigy, loops, ...")
    options = parser.parse_args()

    rows: dict[str, Callable[[Parameters], Callable[[int], object]]] = {
        "torch": lambda parameters: plain(parameters, foreach=None),
        "loops": lambda parameters: plain(parameters, foreach=False),
        "adamw": lambda parameters: ours(parameters, "adamw"),
        "adamw_ema": lambda parameters: ours(parameters, "adamw", ema_decay=0.999),
        "adamw_8bit": lambda parameters: ours(parameters, "adamw_8bit"),
        "prodigy": lambda parameters: ours(parameters, "prodigy"),
    }
    device = torch.device(options.device)
    parameters = adapter(options.rank, options.blocks, device)
    numbers = sum(parameter.numel() for parameter in parameters.values())
    print(f"{len(parameters)} tensors, {numbers / 1e6:.1f} M numbers, {device}, {torch.get_num_threads()} threads")
    seconds = {
        name: measured(build, adapter(options.rank, options.blocks, device), options.rounds)
        for name, build in rows.items()
        if name not in options.skip
    }
    for name, took in seconds.items():
        ratio = f"{seconds['torch'] / took:6.2f}x of torch's speed" if "torch" in seconds else ""
        print(f"{name:12s} {1000 * took:9.1f} ms a step  {ratio}")


def adapter(rank: int, blocks: int, device: torch.device) -> dict[str, nn.Parameter]:
    """B is not zero, as after some steps."""
    made = {}
    for block in range(blocks):
        for module, (inputs, outputs) in MODULES.items():
            for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                name = f"transformer_blocks.{block}.{module}.lora_{side}.weight"
                made[name] = nn.Parameter(0.01 * torch.randn(shape, device=device))
    return made


def ours(parameters: Parameters, optimizer: str, **others: float) -> Callable[[int], object]:
    settings = OptimizationSettings(
        optimizer=optimizer,  # type: ignore[arg-type]
        learning_rate=1.0 if optimizer == "prodigy" else 1e-4,
        scheduler="cosine",
        warmup_steps=0,
        total_steps=1000,
        weight_decay=0.01,
        max_grad_norm=1.0,
        **others,
    )
    optimization = Optimization(parameters, settings)

    def step(number: int) -> None:
        optimization.clip()
        optimization.step(number)

    return step


def plain(parameters: Parameters, *, foreach: bool | None) -> Callable[[int], object]:
    """foreach None: as torch chooses, which is loops on a CPU."""
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=1e-4, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=0.01, foreach=foreach
    )

    def step(number: int) -> None:
        float(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0, foreach=foreach))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measured(build: Callable[[Parameters], Callable[[int], object]], parameters: Parameters, rounds: int) -> float:
    """Median seconds of a step; gradients are made outside the clock."""
    step, times = build(parameters), []
    device = next(iter(parameters.values())).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for number in range(rounds + 1):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, 1e-3)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = clock()
        step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    return statistics.median(times[1:])  # the first makes the state


if __name__ == "__main__":
    main()
