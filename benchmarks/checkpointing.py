"""Writing a checkpoint of a full-size adapter and going on from it, beside torch.save and torch.load of its tensors.

The adapter is what rank 32 on all layers of the full-size v1 is: about 50 million float32 numbers, and AdamW's two
moments of each. A checkpoint also holds the adapter folder, readable by itself, and is written whole or not at all; the
aim is 2 s for writing it, and 2 s for finding it, reading it and putting everything back where it was. Gradients of a
step that is not over, an average (ema_decay) and the best state each add a third of the state's size.

On a crowded machine set OMP_NUM_THREADS=1: each of the thousand small copies waits for its slowest thread.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from acestep.families.v1 import V1Family
from acestep.lora import Adapter, Factors, find_targets, module_shapes
from acestep.lora.metadata import AdapterMetadata, TrainedWith
from acestep.models.v1 import ACEStepTransformer, TransformerConfig
from acestep.training.checkpoints import Position, RunIdentity, latest_checkpoint, save_checkpoint
from acestep.training.optimization import Optimization, OptimizationSettings

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
AIM_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--average", action="store_true", help="with a running average too")
    parser.add_argument("--folder", type=Path, help="where to write; a folder for temporary files if not given")
    options = parser.parse_args()

    parameters = make_parameters(options.rank)
    optimization = make_optimization(parameters, average=options.average)
    stepped(optimization, parameters)
    numbers = sum(parameter.numel() for parameter in parameters.values())
    state = optimization.tensors()
    size = sum(tensor.nbytes for tensor in state.values())
    print(
        f"rank {options.rank}: {len(parameters)} tensors, {numbers / 1e6:.1f} M numbers, {size / 1e6:.0f} MB of state,"
        f" {torch.get_num_threads()} threads"
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        ours, plain = folder / "ours", folder / "plain.pt"
        position = position_of(optimization)

        def save() -> None:
            shutil.rmtree(ours, ignore_errors=True)
            save_checkpoint(ours, position, adapter_of(parameters), {"optimization": state, "gradient": {}, "best": {}})

        def resume() -> None:
            checkpoint = latest_checkpoint([ours])
            assert checkpoint is not None
            optimization.load(checkpoint.below("optimization"), checkpoint.position.optimization)

        def load_plainly() -> None:
            loaded = torch.load(plain, weights_only=True)
            with torch.no_grad():
                for key, tensor in state.items():
                    tensor.copy_(loaded[key])

        report("writing", save, lambda: torch.save(state, plain), options.rounds)
        report("going on", resume, load_plainly, options.rounds)
        written = sum(file.stat().st_size for file in ours.rglob("*") if file.is_file())
        print(f"on disk: {written / 1e6:.0f} MB, torch.save {plain.stat().st_size / 1e6:.0f} MB")


def report(what: str, ours: Callable[[], None], plain: Callable[[], object], rounds: int) -> None:
    """In turns; wall time, since a run waits for the disk too."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds):
        for name, work in (("ours", ours), ("plain", plain)):
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
    our_s, plain_s = statistics.median(times["ours"]), statistics.median(times["plain"])
    print(f"{what + ':':10} {our_s:6.2f} s (aim {AIM_S:g} s), plainly {plain_s:6.2f} s, ratio {plain_s / our_s:5.2f}x")


def make_parameters(rank: int) -> dict[str, nn.Parameter]:
    """Factors for every layer of the full-size transformer that the default targets name; no base is made."""
    config = TransformerConfig(num_layers=24, num_attention_heads=20, attention_head_dim=128)
    with torch.device("meta"):
        shapes = module_shapes(ACEStepTransformer(config))
    parameters = {}
    for name in find_targets(shapes, TARGETS, V1Family.lora_aliases):
        out, inner, *kernel = shapes[name]
        parameters[f"{name}.lora_A.weight"] = nn.Parameter(torch.randn(rank, inner, *kernel))
        parameters[f"{name}.lora_B.weight"] = nn.Parameter(torch.randn(out, rank, *[1] * len(kernel)))
    return parameters


def make_optimization(parameters: Mapping[str, nn.Parameter], *, average: bool) -> Optimization:
    settings = OptimizationSettings("adamw", 1e-4, "cosine", 100, 1000, 0.01, 1.0, ema_decay=0.999 if average else None)
    return Optimization(parameters, settings)


def stepped(optimization: Optimization, parameters: Mapping[str, nn.Parameter]) -> None:
    """One step, which makes the optimizer's state."""
    for parameter in parameters.values():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimization.clip()
    optimization.step(0)


def position_of(optimization: Optimization) -> Position:
    identity = RunIdentity(base_fingerprint="0" * 64, tracks={f"{i}.wav": "0" * 64 for i in range(200)}, settings={})
    return Position(
        step=1,
        examples=(),
        batches_done=0,
        batch_size=1,
        epoch_loss_sum=1.0,
        epoch_examples=1,
        first_validation=None,
        last_validation=None,
        best_step=None,
        optimization=optimization.values(),
        callbacks={},
        identity=identity,
    )


def adapter_of(parameters: Mapping[str, Tensor]) -> Adapter:
    """A copy, as the trainer takes one of what it trains."""
    modules = [name.removesuffix(".lora_A.weight") for name in parameters if name.endswith(".lora_A.weight")]
    factors = {
        module: Factors(
            parameters[f"{module}.lora_A.weight"].detach().clone(), parameters[f"{module}.lora_B.weight"].detach() * 2.0
        )
        for module in modules
    }
    return Adapter(factors, AdapterMetadata(trained=TrainedWith(rank=len(next(iter(factors.values())).a), alpha=64.0)))


if __name__ == "__main__":
    main()
