"""Putting an adapter on, changing it and taking it off, beside PEFT on the same network in the same run; and files.

The aims: attach, change and detach under 50 ms on nano, and so a swap from one folder to another; a rank-32 v1 adapter
read and attached under 1 s (here on layers of v1's widths that share one weight, so that no 3.5 B numbers are needed);
inspect at most 0.3 s from the header.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from acestep.families import Family
from acestep.families.loading import load_family
from acestep.lora import (
    Adapter,
    Factors,
    Section,
    Strength,
    attach,
    attach_trainable,
    base_shapes,
    convert_adapter,
    detach,
    find_targets,
    inspect_adapter,
    module_shapes,
    read_adapter,
    set_weights,
    write_adapter,
)
from acestep.pipeline import ACEStepPipeline

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="the median counts")
    options = parser.parse_args()
    family = load_family("nano", device="cpu")
    modules = find_targets(module_shapes(family.network), TARGETS, family.lora_aliases)
    print(f"nano, {len(modules)} modules, rank {options.rank}; milliseconds of processor time, ours / PEFT")
    on_and_off(family.network, modules, options.rank, options.rounds)
    for dora in (False, True):
        training_step(family, modules, options.rank, options.rounds, dora=dora)
    with tempfile.TemporaryDirectory() as folder:
        swapping(Path(folder), modules, options.rank, options.rounds)
    print("v1's widths, 211 modules of the released targets and 48 of the feed-forward; milliseconds")
    with tempfile.TemporaryDirectory() as folder:
        files(Path(folder), options.rank, options.rounds)


def on_and_off(network: nn.Module, modules: list[str], rank: int, rounds: int) -> None:
    adapter = random_adapter({name: module_shapes(network)[name] for name in modules}, rank)
    theirs = copy.deepcopy(network)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules)
    values = {side: [getattr(factors, side) for factors in adapter.factors.values()] for side in "ab"}

    def attach_theirs() -> None:
        inject_adapter_in_model(config, theirs, "a")
        for index, layer in enumerate(lora_layers(theirs).values()):
            layer.lora_A["a"].weight.data.copy_(values["a"][index % len(modules)].reshape_as(layer.lora_A["a"].weight))

    def change_theirs() -> None:
        for layer in lora_layers(theirs).values():
            layer.set_scale("a", 0.5)

    def detach_theirs() -> None:
        for name, layer in lora_layers(theirs).items():
            parent, _, child = name.rpartition(".")
            setattr(theirs.get_submodule(parent), child, layer.get_base_layer())

    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "attach": (lambda: attach(network, adapter, name="a"), attach_theirs),
        "change the strength": (lambda: set_weights(network, {"a": 0.5}), change_theirs),
        "detach": (lambda: detach(network, "a"), detach_theirs),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (mine, other) in steps.items():
            times[name].append((milliseconds(mine), milliseconds(other)))
    for name, pairs in times.items():
        report(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def swapping(folder: Path, modules: list[str], rank: int, rounds: int) -> None:
    """As a user does it: from one adapter's folder to another's on a pipeline, and a new strength."""
    pipe = ACEStepPipeline.from_pretrained("nano", device="cpu")
    shapes = module_shapes(pipe.family.network)
    for name in ("one", "other"):
        write_adapter(folder / name, random_adapter({module: shapes[module] for module in modules}, rank))
    pipe.load_lora(folder / "one")
    chorus = Strength(0.3, sections=(Section(32, 48, 1.0),))
    swaps, changes = [], []
    for number in range(rounds):
        here, next_one = ("one", "other") if number % 2 == 0 else ("other", "one")
        swaps.append(milliseconds(lambda old=here: pipe.unload_lora(old)))  # type: ignore[misc]
        swaps[-1] += milliseconds(lambda new=next_one: pipe.load_lora(folder / new))  # type: ignore[misc]
        changes.append(milliseconds(lambda new=next_one: pipe.set_lora_weights({new: chorus})))  # type: ignore[misc]
    report("swap two folders on a pipe", swaps)
    report("change a pipe's strength", changes)


def training_step(family: Family, modules: list[str], rank: int, rounds: int, *, dora: bool) -> None:
    """Forward and backward over 10 s of latents, PEFT's layers and ours in turns."""
    conditioning = family.encode_prompt(["lofi, piano"], [""])
    latents, sigmas = torch.randn(1, 8, 16, family.latent_frames(10.0)), torch.tensor([0.5])

    def step() -> None:
        family.velocity(latents, sigmas, conditioning).square().mean().backward()  # type: ignore[no-untyped-call]

    bare, times = family.network, ([], [])  # type: ignore[var-annotated]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules, use_dora=dora)
    for _ in range(rounds):
        trained = attach_trainable(bare, modules, rank=rank, alpha=rank, dora=dora)
        step()
        times[0].append(milliseconds(step))
        trained.detach()
        family.network = copy.deepcopy(bare)
        inject_adapter_in_model(config, family.network, "a")
        step()
        times[1].append(milliseconds(step))
        family.network = bare
    report(f"a training step, {'DoRA' if dora else 'LoRA'}", *times)


def files(folder: Path, rank: int, rounds: int) -> None:
    shapes = {
        name: shape
        for name, shape in base_shapes("v1").items()
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0", "linear_q", "linear_k", "linear_v"))
        or ".ff." in name
        or name == "speaker_embedder"
    }
    network = stand_in(shapes)
    path = write_adapter(folder / "lora", random_adapter(shapes, rank), dtype=torch.bfloat16)
    print(f"  the file has {sum(file.stat().st_size for file in path.iterdir()) / 1e6:.0f} MB")
    adapter = read_adapter(path, shapes)
    report("read", [milliseconds(lambda: read_adapter(path, shapes)) for _ in range(rounds)])
    times: dict[str, list[float]] = {"attach": [], "change the strength": [], "detach": []}
    for _ in range(rounds):
        times["attach"].append(milliseconds(lambda: attach(network, adapter, name="a")))
        times["change the strength"].append(milliseconds(lambda: set_weights(network, {"a": 0.5})))
        times["detach"].append(milliseconds(lambda: detach(network, "a")))
    for name, taken in times.items():
        report(name, taken)
    report("inspect, header only", [milliseconds(lambda: inspect_adapter(path, measure=False)) for _ in range(rounds)])
    report("inspect, measured", [milliseconds(lambda: inspect_adapter(path)) for _ in range(rounds)])
    out = folder / "out.safetensors"
    report("convert", [milliseconds(lambda: convert_adapter(path, out, "kohya", force=True)) for _ in range(rounds)])


def stand_in(shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """A network with these module names and shapes, in which weights of one shape are one tensor."""
    root = nn.Module()
    weights: dict[tuple[int, ...], nn.Parameter] = {}
    for name, shape in shapes.items():
        *parents, child = name.split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        with torch.device("meta"):
            layer: nn.Module = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv1d(shape[1], shape[0], 1)
        weight = weights.setdefault(shape, nn.Parameter(torch.zeros(shape, dtype=torch.bfloat16), requires_grad=False))
        layer.register_parameter("weight", weight)
        layer.register_parameter("bias", nn.Parameter(torch.zeros(shape[0], dtype=torch.bfloat16)))
        place.add_module(child, layer)
    return root


def random_adapter(shapes: dict[str, tuple[int, ...]], rank: int) -> Adapter:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Adapter(
        {
            name: Factors(drawn(rank, into, *kernel), drawn(out, rank, *(1 for _ in kernel)))
            for name, (out, into, *kernel) in shapes.items()
        }
    )


def lora_layers(network: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def milliseconds(work: Callable[[], object]) -> float:
    """Of processor time, so that other programs beside this one do not count."""
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def report(name: str, ours: list[float], theirs: list[float] | None = None) -> None:
    mine = statistics.median(ours)
    if theirs is None:
        print(f"  {name:28} {mine:8.1f}")
        return
    other = statistics.median(theirs)
    print(f"  {name:28} {mine:8.1f} / {other:8.1f}   {other / mine:5.1f}x")


if __name__ == "__main__":
    main()
