"""What a machine can train, and how: judgements on `Machine`, which this only reads.

The needs of v1 are those that its full-size step was counted to have (`benchmarks/planner.py`), with what CUDA and
torch's allocator take besides. Others ask for 16 GB of GPU memory at least and 24 better, 32 and 64 GB of memory, 100
and 500 GB of disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from acestep.families.hub import NANO, V1_HUB_ID
from acestep.training.planning.machine import LISTENERS, Gpu, Machine
from acestep.wording import size_text

Grade = Literal["good", "fair", "bad"]

GB = 1_000_000_000
USUAL = {"GPU memory": (16, 24), "memory": (32, 64), "free disk": (100, 500)}
"""Least and recommended, in GB, of the usual way to train v1."""
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Need:
    """A way to train v1: what it takes of a GPU, and what a config must say for it."""

    gpu_gb: float
    settings: Mapping[str, Any]


# From most to least. The counts are of rank 32 on all six targets, one window at a time.
V1_NEEDS = (
    Need(24.0, {"base_quantization": None, "gradient_checkpointing": False, "data.max_duration": 60}),
    Need(10.0, {"base_quantization": None, "gradient_checkpointing": True, "data.max_duration": 60}),
    Need(8.0, {"base_quantization": "int8", "gradient_checkpointing": True, "data.max_duration": 60}),
    Need(6.0, {"base_quantization": "nf4", "gradient_checkpointing": True, "data.max_duration": 30}),
)
V1_LOADING_GB = 12.0
"""Of memory: the weights of v1 pass through it on their way to a GPU."""
V1_DISK_GB = 15.0
"""Weights, a dataset's latents, and a run with its checkpoints."""
V1_CPU_GB = 24.0
_GET_NANO = "pip install --force-reinstall acesteps"
_LATER = "not before the following is done; then "
NANO_GB = 2.0
NANO_DISK_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, in words. advice: what to do, where there is something to do."""

    name: str
    grade: Grade
    found: str
    advice: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a base can be trained here. settings: what a config says for it; advice: what to do where not."""

    base: str
    can_train: bool
    how: str
    settings: Mapping[str, Any]
    advice: tuple[str, ...] = ()


def check_machine(machine: Machine) -> tuple[Check, ...]:
    """Each part against what training wants."""
    return (
        _check_gpu(machine),
        _check_memory(machine),
        *_check_disks(machine),
        _check_python(machine),
        _check_libraries(machine),
        *_check_weights(machine),
    )


def judge(machine: Machine) -> tuple[Verdict, ...]:
    """nano and v1."""
    return (judge_nano(machine), judge_v1(machine))


def judge_nano(machine: Machine) -> Verdict:
    advice = tuple(_common_obstacles(machine, memory_gb=NANO_GB, disk_gb=NANO_DISK_GB, base=NANO))
    where = "on the GPU" if machine.gpus else "on the CPU, minutes a LoRA"
    return Verdict(NANO, not advice, where if not advice else _LATER + where, {"base_model": NANO}, advice)


def judge_v1(machine: Machine) -> Verdict:
    """With the first of `V1_NEEDS` that the largest GPU satisfies; without one on the CPU, which takes days."""
    gpu = _largest(machine)
    obstacles = list(_common_obstacles(machine, memory_gb=V1_LOADING_GB, disk_gb=V1_DISK_GB, base=V1_HUB_ID))
    settings: dict[str, Any] = {"base_model": V1_HUB_ID}
    if gpu is None:
        if machine.memory_bytes < V1_CPU_GB * GB:
            obstacles.append(
                f"there is no GPU, and on a CPU v1 wants {V1_CPU_GB:g} GB of memory: train nano here, or v1 elsewhere"
            )
        else:
            settings |= {"base_quantization": None, "gradient_checkpointing": True, "data.max_duration": 30}
        how = "on the CPU alone: minutes a step, days a LoRA; a GPU is advised"
        return Verdict(V1_HUB_ID, not obstacles, how if not obstacles else _LATER + how, settings, tuple(obstacles))
    need = next((need for need in V1_NEEDS if gpu.total_bytes >= need.gpu_gb * GB), None)
    if need is None:
        least = V1_NEEDS[-1].gpu_gb
        obstacles.append(
            f"{gpu.name} has {size_text(gpu.total_bytes)}, and v1 needs {least:g} GB with the smallest settings: train"
            " nano here, or v1 on a larger GPU"
        )
        return Verdict(V1_HUB_ID, False, "not on this GPU", settings, tuple(obstacles))
    settings |= {**need.settings, "lora.rank": 32, "precision": "bf16" if gpu.has_bf16 else "fp32"}
    kept = settings["base_quantization"] or "16 bits"
    checkpointing = "with" if settings["gradient_checkpointing"] else "without"
    how = (
        f"on {gpu.name}: rank 32, windows of {settings['data.max_duration']} s, the base in {kept},"
        f" {checkpointing} gradient checkpointing"
    )
    if not gpu.has_bf16:
        # Half precision with a narrow range makes v1's sums overflow; so the base stays in float32, twice as large.
        obstacles.append(f"{gpu.name} does not compute in bfloat16; use a GPU of the Ampere generation or newer")
    if gpu.free_bytes is not None and gpu.free_bytes < need.gpu_gb * GB:
        obstacles.append(
            f"of {gpu.name}'s {size_text(gpu.total_bytes)} only {size_text(gpu.free_bytes)} are free: close what uses"
            " it (nvidia-smi names it)"
        )
    return Verdict(V1_HUB_ID, not obstacles, how if not obstacles else _LATER + how, settings, tuple(obstacles))


def _common_obstacles(machine: Machine, *, memory_gb: float, disk_gb: float, base: str) -> Iterator[str]:
    if _python(machine) < OLDEST_PYTHON:
        yield f"Python {machine.python} is too old; install {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    if missing := [name for name, found in machine.libraries.items() if found is None]:
        yield f"not installed: {', '.join(missing)}; run: pip install acesteps"
    if machine.memory_bytes < memory_gb * GB:
        yield f"{size_text(machine.memory_bytes)} of memory; {memory_gb:g} GB are needed"
    for disk in machine.disks:
        if disk.used_for.startswith("runs"):
            if not disk.is_writable:
                yield f"{disk.path} cannot be written; choose another output_dir"
            if disk.free_bytes < disk_gb * GB:
                yield f"{size_text(disk.free_bytes)} free on the disk of {disk.path}; {disk_gb:g} GB are needed"
    weights = next((weights for weights in machine.weights if weights.name == base), None)
    if weights is None or weights.state != "complete":
        size = (
            f" ({size_text(weights.bytes_missing)} to fetch)" if weights is not None and weights.bytes_missing else ""
        )
        first = "with the network open (HF_HUB_OFFLINE is set), " if machine.is_offline else ""
        get = _GET_NANO if base == NANO else f"hf download {base}"
        yield f"its weights are not here{size}: {first}run: {get}"


def _check_gpu(machine: Machine) -> Check:
    gpu = _largest(machine)
    if gpu is None:
        if machine.driver is not None and machine.cuda is None:
            built = "this torch is built for the CPU alone; install one for CUDA (pytorch.org says how)"
            return Check("GPU", "bad", f"NVIDIA driver {machine.driver}, but no GPU that torch can use", built)
        if machine.driver is not None:
            newer = f"torch wants CUDA {machine.cuda}; a newer driver may be what it needs"
            return Check("GPU", "bad", f"NVIDIA driver {machine.driver}, but torch cannot use the GPU", newer)
        return Check("GPU", "bad", "none; nano trains on a CPU, v1 wants a GPU")
    others = f", and {len(machine.gpus) - 1} more" if len(machine.gpus) > 1 else ""
    versions = f" (driver {machine.driver or 'unknown'}, CUDA {machine.cuda})" if gpu.kind == "cuda" else ""
    free = f", {size_text(gpu.free_bytes)} free" if gpu.free_bytes is not None else ""
    found = f"{gpu.name}, {size_text(gpu.total_bytes)}{free}{others}{versions}"
    least, recommended = USUAL["GPU memory"]
    grade: Grade = "good" if gpu.total_bytes >= 0.95 * recommended * GB else "fair"
    advice = None
    if gpu.total_bytes < 0.95 * least * GB:
        advice = f"the usual way wants {least} GB, better {recommended}; ours needs less, see below"
        grade = "fair" if gpu.total_bytes >= V1_NEEDS[-1].gpu_gb * GB else "bad"
    return Check("GPU", grade, found, advice)


def _check_memory(machine: Machine) -> Check:
    least, recommended = USUAL["memory"]
    total, limit = machine.memory_bytes, machine.memory_limit_bytes
    inside = f" (the limit of this container: {size_text(limit)})" if limit is not None and limit <= total else ""
    found = f"{size_text(total)}, {size_text(machine.memory_available_bytes)} available{inside}"
    grade: Grade = "good" if total >= 0.95 * least * GB else "fair" if total >= V1_LOADING_GB * GB else "bad"
    advice = (
        None if grade == "good" else f"the usual way wants {least} GB, better {recommended}; ours {V1_LOADING_GB:g}"
    )
    return Check("memory", grade, found, advice)


def _check_disks(machine: Machine) -> Iterator[Check]:
    least, recommended = USUAL["free disk"]
    for disk in machine.disks:
        found = f"{size_text(disk.free_bytes)} free at {disk.path}"
        if not disk.is_writable:
            yield Check(f"disk for {disk.used_for}", "bad", f"{found}, not writable", "choose another folder")
        elif disk.free_bytes >= least * GB:
            yield Check(f"disk for {disk.used_for}", "good", found)
        else:
            grade: Grade = "fair" if disk.free_bytes >= V1_DISK_GB * GB else "bad"
            advice = f"the usual way wants {least} GB, better {recommended}; ours {V1_DISK_GB:g} for v1, 1 for nano"
            yield Check(f"disk for {disk.used_for}", grade, found, advice)


def _check_python(machine: Machine) -> Check:
    old = _python(machine) < OLDEST_PYTHON
    advice = f"install {'.'.join(map(str, OLDEST_PYTHON))} or newer" if old else None
    return Check(
        "Python", "bad" if old else "good", f"{machine.python} on {machine.system}, {machine.cpus} CPUs", advice
    )


def _check_libraries(machine: Machine) -> Check:
    missing = [name for name, found in machine.libraries.items() if found is None]
    there = ", ".join(f"{name} {found}" for name, found in machine.libraries.items() if found is not None)
    extras = ", ".join(name for name, present in machine.extras.items() if present) or "none"
    absent = [name for name, present in machine.extras.items() if not present]
    advice = (
        f"extras that are not installed: {', '.join(absent)} (pip install 'acesteps[{absent[0]}]')" if absent else None
    )
    if missing:
        return Check(
            "libraries", "bad", f"without {', '.join(missing)}; there are {there}", "run: pip install acesteps"
        )
    return Check("libraries", "good", f"{there}; extras: {extras}", advice)


def _check_weights(machine: Machine) -> Iterator[Check]:
    for weights in machine.weights:
        size = f", {size_text(weights.bytes_here)}" if weights.bytes_here else ""
        if weights.state == "complete":
            yield Check(weights.name, "good", f"here{size}")
            continue
        lacks = f", lacks {', '.join(weights.missing)}" if weights.state == "partial" and weights.missing else ""
        found = f"{'in part' if weights.state == 'partial' else 'not here'}{size}{lacks}"
        yield Check(weights.name, "fair", found, _getting(weights.name, weights.bytes_missing, machine.is_offline))


def _getting(name: str, missing_bytes: int, offline: bool) -> str | None:
    """How weights come here; those of the alignment losses are optional, and are fetched by nobody unasked."""
    size = f" ({size_text(missing_bytes)})" if missing_bytes else ""
    closed = "; HF_HUB_OFFLINE is set, so nothing is fetched now" if offline else ""
    if name == NANO:
        return _GET_NANO
    if "vocabulary" in name:
        return f"fetched for the first song with words{size}{closed}"
    use = ", which the representation-alignment losses alone need" if name in LISTENERS else ""
    return f"hf download {name}{size}{use}{closed}"


def _largest(machine: Machine) -> Gpu | None:
    return max(machine.gpus, key=lambda gpu: gpu.total_bytes, default=None)


def _python(machine: Machine) -> tuple[int, ...]:
    return tuple(int(part) for part in machine.python.split(".")[:2])
