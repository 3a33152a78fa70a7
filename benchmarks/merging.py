"""Merging two full-size v1 adapters, beside PEFT's own merges of modules of the same sizes in the same run.

Adapters of random numbers on the modules of the released v1 LoRA (--feed-forward: and the feed-forwards), float32. Each
merge runs in a process of its own, for its peak memory: seconds are those of `merge_loras` from files to a folder.
Ratios are of processor seconds, ours and PEFT's in one thread, so that a busy machine does not count.
PEFT's SVD merges take minutes, so it gets --peft-modules attention weights and its time is multiplied up; it only
computes, and neither reads nor writes.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from acestep.lora import Adapter, AdapterMetadata, Factors, write_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.merge import merge_loras

RELEASED = re.compile(
    r"speaker_embedder|lyric_encoder\.encoders\.\d+\.self_attn\.linear_[qkv]"
    r"|transformer_blocks\.\d+\.(cross_)?attn\.to_(q|k|v|out\.0)"
)
FEED_FORWARD = re.compile(r"transformer_blocks\.\d+\.ff\.(inverted|point)_conv\.conv")
WIDTH = 2560
# strategy, rank, aims: seconds and GB
ROWS: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("weighted_average", "full", 3, 1),
    ("weighted_average", "auto", 3, 1),
    ("weighted_average", "32", 3, 1),
    ("ties", "64", 120, 2),
    ("knots", "64", None, None),
    ("tsv", "64", None, None),
)
# PEFT's name for what ours is compared with.
PEFT = {"weighted_average 32": ("svd", {}), "ties 64": ("ties_svd", {"density": 0.2})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--feed-forward", action="store_true", help="adapters on the feed-forwards too")
    parser.add_argument(
        "--peft-modules", type=int, default=1, help="attention weights that PEFT merges; 0 leaves it out"
    )
    parser.add_argument("--only", nargs="*", help="strategies to run")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return

    with tempfile.TemporaryDirectory(prefix="acestep-merging-") as place:
        folder = Path(place)
        counts = [write_random(folder / name, options, seed) for seed, name in enumerate(("one", "other"))]
        count = counts[0]
        print(f"two adapters of rank {options.rank} on {count} modules, float32, {torch.get_num_threads()} threads")
        ours: dict[str, float] = {}
        for strategy, rank, seconds_aim, memory_aim in ROWS:
            if options.only and strategy not in options.only:
                continue
            command = [sys.executable, __file__, "--child", str(folder), strategy, rank, str(folder / "merged")]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ours[f"{strategy} {rank}"] = told["cpu"]
            aims = f"aims {seconds_aim:g} s, {memory_aim:g} GB" if seconds_aim else ""
            print(
                f"{strategy + ' ' + rank:24}{told['seconds']:8.2f} s ({told['cpu']:.1f} of the processor)"
                f"{told['peak'] / 1e9:7.2f} GB, rank {told['rank']}, {told['lost']:.2%} of the energy lost  {aims}",
                flush=True,
            )
        if options.peft_modules:
            # The smaller ones of the lyric encoder are given to PEFT.
            square = sum(
                shape == (WIDTH, WIDTH) and bool(RELEASED.fullmatch(m)) for m, shape in base_shapes("v1").items()
            )
            for name, (combination, more) in PEFT.items():
                if name in ours:
                    once = peft_seconds(combination, options.rank, int(name.split()[1]), options.peft_modules, **more)
                    print(
                        f"PEFT {combination}: {once:.2f} s a module, {once * square:.0f} s for {square};"
                        f" ours takes 1/{once * square / ours[name]:.0f} of that for {count}, files and all"
                    )
            once = peft_seconds("linear", options.rank, options.rank, options.peft_modules)
            print(f"PEFT linear (which mixes the factors of different adapters): {once * square:.2f} s for {square}")


def write_random(folder: Path, options: argparse.Namespace, seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (out, into, *kernel) in base_shapes("v1").items():
        if RELEASED.fullmatch(module) or (options.feed_forward and FEED_FORWARD.fullmatch(module)):
            a = torch.randn(options.rank, into, *kernel, generator=generator)
            b = 0.01 * torch.randn(out, options.rank, *kernel, generator=generator)
            factors[module] = Factors(a, b)
    write_adapter(folder, Adapter(factors, AdapterMetadata(family="v1")))
    return len(factors)


def child(folder: str, strategy: str, rank: str, output: str) -> None:
    """One merge in this process, its figures on stdout."""
    chosen = int(rank) if rank.isdigit() else rank
    loras = [(Path(folder) / "one", 0.7), (Path(folder) / "other", 0.3)]
    start, before = time.perf_counter(), time.process_time()
    report = merge_loras(loras, output, strategy=strategy, rank=chosen, overwrite=True)  # type: ignore[arg-type]
    told = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rank": report.rank,
        "lost": report.energy_lost,
    }
    print(json.dumps(told))


def peft_seconds(combination: str, rank: int, svd_rank: int, modules: int, **more: float) -> float:
    """`add_weighted_adapter` on that many square attention weights, seconds a module."""
    from peft import LoraConfig, get_peft_model

    names = [f"layer_{index}" for index in range(modules)]
    network = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, WIDTH, bias=False) for name in names})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=False)
    model = get_peft_model(network, config, adapter_name="one")  # type: ignore[arg-type]
    model.add_adapter("other", config)
    if "svd" in combination:
        more["svd_rank"] = svd_rank
    torch.set_num_threads(1)
    start = time.process_time()
    model.add_weighted_adapter(["one", "other"], [0.7, 0.3], "merged", combination_type=combination, **more)  # type: ignore[operator]
    return (time.process_time() - start) / modules


if __name__ == "__main__":
    main()
