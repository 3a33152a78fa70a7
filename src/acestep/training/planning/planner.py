"""Before a run: what it will need of memory, time and disk, whether that is there, and what would fit if not.

Counts first, from shapes (`footprint.py`), then runs a real step (`probe.py`). Settings that would fit are found by
counting alone, from those that change nothing in what is learned to those that cost quality.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from acestep.errors import InputError
from acestep.families.base import Conditioning, Family
from acestep.models.quantization import quantization_of
from acestep.training.memory import peak_memory_bytes
from acestep.training.planning.footprint import Footprint, count_step
from acestep.training.planning.host_memory import available_bytes, process_bytes
from acestep.training.planning.probe import Clock, CodecPace, ProbeResult, probe_codec, probe_step
from acestep.training.planning.run_shape import RunShape
from acestep.training.planning.step_settings import StepSettings
from acestep.wording import size_text, time_text

logger = logging.getLogger(__name__)

HEAP_FACTOR = 1.8
"""A process grows by this much for each byte of tensors that live on a CPU: 1.5 to 2.2 were measured with glibc."""
GPU_FACTOR = 1.1
"""Of what tensors hold: what torch's allocator keeps besides, in pieces too small for what comes next."""
GPU_CONTEXT_BYTES = 600_000_000
"""CUDA's own context and its libraries' workspaces."""
SHORTEST_S = 10.0
"""Windows shorter than this are not proposed: too little music to learn a form from."""
LOWEST_RANK = 8

_FLOAT, _WAV_FRAME = 4, 4
_LATENT_NUMBERS = 8 * 16
_LITTLE_ROOM = 1.15


@dataclass(frozen=True)
class Alternative:
    """Settings that would fit. changes: config keys and their values, as a config file writes them."""

    changes: Mapping[str, Any]
    peak_bytes: int
    step_s: float | None = None


@dataclass(frozen=True)
class RunPlan:
    """What a run will need. peak_bytes: on a GPU what tensors hold, else the whole process; memory: its counted parts.

    probed: whether a real step was run. seconds: by what is done, None where nothing was timed. disk: bytes by what is
    written. problems: why it cannot go well as it is; advice: what to do then, and what to know.
    """

    device: str
    settings: Mapping[str, Any]
    memory: Mapping[str, int]
    peak_bytes: int
    limit_bytes: int
    probed: bool
    steps: int
    step_s: float | None
    micro_batch_s: float | None
    seconds: Mapping[str, float] | None
    disk: Mapping[str, int]
    disk_free: Mapping[str, int]
    problems: tuple[str, ...]
    advice: tuple[str, ...]
    alternative: Alternative | None

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def total_s(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "fits": self.fits, "total_s": self.total_s, "disk_bytes": self.disk_bytes}

    def summary(self) -> str:
        """One line."""
        time_said = "" if self.total_s is None else f", {time_text(self.total_s)}"
        return (
            f"{self.steps} steps{time_said}; {size_text(self.peak_bytes)} of {size_text(self.limit_bytes)} memory on"
            f" {self.device}, {size_text(self.disk_bytes)} on the disk"
        )

    def table(self) -> str:
        """For people, in plain text."""
        return "\n".join(_table(self))


def plan_run(
    family: Family,
    settings: StepSettings,
    run: RunShape,
    *,
    example: Conditioning | None = None,
    limit_bytes: int | None = None,
    probe: bool = True,
    clock: Clock = time.perf_counter,
) -> RunPlan:
    """Plan a run on `family`, which is as it was afterwards. Seconds on a GPU; some steps' time where a step is slow.

    example: any conditioning of the family; None has one encoded. limit_bytes: of memory; None asks the device.
    Without a probe nothing is run and no time is told.
    """
    example = example if example is not None else family.encode_prompt(["a song"], [""])
    limit = limit_bytes if limit_bytes is not None else memory_limit(family.device)
    before = peak_memory_bytes(family.device)
    counted = _Counter(family, example, held=process_bytes() or before)
    footprint = counted.footprint(settings)
    peak = counted.peak(settings)
    seen, pace = None, None
    # A step that is counted to need far more than there is would bring a machine without a GPU down.
    if probe and _needed(family.device, peak) < limit * 1.2:
        seen = probe_step(family, settings, example, clock=clock)
        if seen.fits:
            peak = max(seen.memory_bytes, before) if family.device.type != "mps" else peak
            pace = probe_codec(family, clock=clock)
    fits = (seen is None or seen.fits) and _needed(family.device, peak) <= limit
    disk = _disk(family, settings, run, footprint, example)
    disk_free = {name: free_bytes(folder) for name, folder in (("output", run.output_dir), ("cache", run.cache_dir))}
    problems, advice = _disk_problems(run, disk, disk_free), []
    alternative = None
    if not fits:
        need, there = size_text(_needed(family.device, peak)), size_text(limit)
        ran_out = seen is not None and not seen.fits
        measured = "a real step ran out of memory" if ran_out else f"a step needs about {need}"
        problems.insert(0, f"it does not fit in memory: {measured}, and there are {there} on {family.device}")
        alternative = find_alternative(family, settings, counted.peak, limit)
        if alternative is None:
            advice.append("nothing that can be set makes it fit; use a machine with more memory, or a smaller base")
        else:
            changes = ", ".join(f"{key}: {_plain(value)}" for key, value in alternative.changes.items())
            advice.append(f"this would fit, with about {size_text(alternative.peak_bytes)}: {changes}")
    elif _needed(family.device, peak) * _LITTLE_ROOM > limit:
        advice.append(
            f"memory is tight: about {size_text(_needed(family.device, peak))} of {size_text(limit)}; close what else"
            " uses it"
        )
    return RunPlan(
        device=str(family.device),
        settings=_described(family, settings),
        memory={key: value for key, value in asdict(footprint).items() if key != "trainable"},
        peak_bytes=peak,
        limit_bytes=limit,
        probed=seen is not None and seen.fits,
        steps=run.steps,
        step_s=seen.step_s if seen is not None and seen.fits else None,
        micro_batch_s=seen.micro_batch_s if seen is not None and seen.fits else None,
        seconds=_seconds(family, settings, run, seen, pace) if seen is not None and seen.fits else None,
        disk=disk,
        disk_free=disk_free,
        problems=tuple(problems),
        advice=tuple(advice),
        alternative=alternative,
    )


def memory_limit(device: torch.device) -> int:
    """What a run on the device may use in all: of a GPU what is free or ours already; of a CPU what is available to
    this process, its own share included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return available_bytes() + process_bytes()


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder is on, or will be."""
    there = folder.expanduser().absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    return shutil.disk_usage(there).free


def find_alternative(
    family: Family, settings: StepSettings, peak: Callable[[StepSettings], int], limit: int
) -> Alternative | None:
    """The least harmful settings that fit, by counting: first what learns the same, then what learns less.

    Changes are added up until they fit; then those that were not needed after all are taken back, the most harmful
    first. None where nothing helps.
    """

    def fits(candidate: StepSettings) -> bool:
        return _needed(family.device, peak(candidate)) <= limit

    taken: list[dict[str, Any]] = []
    for change in _changes(family, settings):
        try:
            found = fits(_with(settings, [*taken, change]))
        except InputError:  # this network has nothing to quantise
            continue
        taken.append(change)
        if found:
            break
    else:
        return None
    for change in list(reversed(taken[:-1])):
        fewer = [other for other in taken if other is not change]
        if fits(_with(settings, fewer)):
            taken = fewer
    chosen = _with(settings, taken)
    return Alternative(_as_config(family, settings, chosen), peak(chosen))


def _changes(family: Family, settings: StepSettings) -> Iterator[dict[str, Any]]:
    """What can be done, from the least harm to the most; a later one of the same kind replaces an earlier one."""
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if settings.batch_size > 1:
        yield {"batch_size": 1, "accumulation": settings.accumulation * settings.batch_size}
    for share in (2, 4):
        if (frames := settings.frames // share) >= SHORTEST_S * family.latent_rate:
            yield {"frames": frames}
    if settings.quantization is None and quantization_of(family.network) is None:
        yield {"quantization": "int8"}
        yield {"quantization": "nf4"}
    rank = settings.rank
    while (rank := rank // 2) >= LOWEST_RANK:
        yield {"rank": rank}


def _with(settings: StepSettings, changes: list[dict[str, Any]]) -> StepSettings:
    values = {key: value for change in changes for key, value in change.items()}
    adapter = dict(settings.adapter)
    if "rank" in values and "alpha" in adapter:
        adapter["alpha"] = adapter["alpha"] * values["rank"] / settings.rank
    if "rank" in values:
        # Ranks of single modules shrink with the common one.
        factor = values["rank"] / settings.rank
        adapter["ranks"] = {name: max(int(rank * factor), 1) for name, rank in (adapter.get("ranks") or {}).items()}
    return replace(settings, **values, adapter=adapter)


def _as_config(family: Family, old: StepSettings, new: StepSettings) -> dict[str, Any]:
    """The differences as a config file would say them."""
    said = {
        "gradient_checkpointing": (old.gradient_checkpointing, new.gradient_checkpointing),
        "training.batch_size": (old.batch_size, new.batch_size),
        "training.gradient_accumulation": (old.accumulation, new.accumulation),
        "data.max_duration": (old.frames, new.frames),
        "base_quantization": (old.quantization, new.quantization),
        "lora.rank": (old.rank, new.rank),
        "lora.alpha": (old.adapter.get("alpha"), new.adapter.get("alpha")),
    }
    changed = {key: after for key, (before, after) in said.items() if before != after}
    if "data.max_duration" in changed:
        changed["data.max_duration"] = round(new.frames / family.latent_rate, 1)
    return changed


class _Counter:
    """Counts settings, each once. held: what the process takes now (of interest on a CPU alone)."""

    def __init__(self, family: Family, example: Conditioning, *, held: int) -> None:
        self._family, self._example, self._held = family, example, held
        self._known: dict[str, Footprint] = {}
        self._base: int | None = None

    def footprint(self, settings: StepSettings) -> Footprint:
        key = repr(replace(settings, accumulation=min(settings.accumulation, 2)))
        if key not in self._known:
            self._known[key] = count_step(self._family, settings, self._example)
        return self._known[key]

    def peak(self, settings: StepSettings) -> int:
        found = self.footprint(settings)
        if self._family.device.type != "cpu":
            return found.total
        if self._base is None:
            self._base = self.footprint(replace(settings, quantization=None)).base
        # The base is in the process already; quantising it frees what it saves.
        return self._held + round(HEAP_FACTOR * (found.total - found.base)) - max(self._base - found.base, 0)


def _needed(device: torch.device, peak: int) -> int:
    """Of the device's memory, for tensors that hold `peak` bytes of a GPU; a process is told as it is."""
    return round(GPU_FACTOR * peak) + GPU_CONTEXT_BYTES if device.type == "cuda" else peak


def _seconds(
    family: Family, settings: StepSettings, run: RunShape, seen: ProbeResult, pace: CodecPace | None
) -> dict[str, float]:
    """By what is done. A song's steps cost a forward pass each, two inside the guidance interval."""
    frame_s = seen.forward_s / (settings.batch_size * settings.frames)
    sampling = family.sampling
    passes = sampling.steps * (1 + sampling.guidance_interval * (sampling.guidance_scale > 1))
    decode = (pace.decode if pace is not None else None) or 0.0
    encode = (pace.encode if pace is not None else None) or 0.0
    song_s = passes * frame_s * family.latent_frames(run.sample_s) + decode * run.sample_s
    rounds = run.sample_rounds + 1 if run.sample_rounds else 0
    return {
        "encoding": run.to_encode_s * run.variants * encode,
        "training": run.steps * seen.step_s,
        "validation": run.validations * run.held_out_tracks * run.levels * frame_s * settings.frames,
        "samples": rounds * run.songs * song_s,
    }


def _disk(
    family: Family, settings: StepSettings, run: RunShape, footprint: Footprint, example: Conditioning
) -> dict[str, int]:
    """Bytes to come. What is cached already is on the disk; a checkpoint is whole before the oldest goes."""
    share = run.to_encode_s / run.audio_s if run.audio_s else 0.0
    words = example.text_states.shape[-1] * settings.text_tokens * _FLOAT + 16 * settings.lyric_tokens
    latents = run.to_encode_s * run.variants * family.latent_rate * _LATENT_NUMBERS * _FLOAT
    adapter = _FLOAT * footprint.trainable
    kept = min(run.checkpoints, run.checkpoints_kept + 1)
    # The adapter as a file and as it learns, what the optimizer knows, the average, and the best state so far.
    checkpoint = 3 * adapter + footprint.optimizer + footprint.average
    rounds = run.sample_rounds + 1 if run.sample_rounds else 0
    return {
        "cache": round(latents + share * run.tracks * run.variants * words),
        "checkpoints": round(kept * checkpoint),
        "adapter": adapter,
        "samples": round(rounds * run.songs * run.sample_s * family.sample_rate * _WAV_FRAME),
    }


def _disk_problems(run: RunShape, disk: Mapping[str, int], free: Mapping[str, int]) -> list[str]:
    needs = {"output": sum(disk.values()) - disk["cache"], "cache": disk["cache"]}
    folders = {"output": run.output_dir, "cache": run.cache_dir}
    return [
        f"the disk of {folders[name]} has {size_text(free[name])} free, and the run's {name} needs {size_text(need)};"
        " make room, or choose another folder"
        for name, need in needs.items()
        if need > free[name]
    ]


def _described(family: Family, settings: StepSettings) -> dict[str, Any]:
    return {
        "base": family.name,
        "rank": settings.rank,
        "modules": len(settings.targets),
        "window_s": round(settings.frames / family.latent_rate, 2),
        "frames": settings.frames,
        "batch_size": settings.batch_size,
        "gradient_accumulation": settings.accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "precision": "fp32" if settings.autocast is None else "bf16",
        "base_quantization": settings.quantization or quantization_of(family.network),
        "optimizer": settings.optimization.optimizer,
    }


def _table(plan: RunPlan) -> Iterator[str]:
    settings = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in plan.settings.items())
    yield f"Plan: {settings}, on {plan.device}"
    how = "measured" if plan.probed else "counted"
    yield f"  memory    {size_text(plan.peak_bytes):>10}  at most, {how}; there are {size_text(plan.limit_bytes)}"
    for name, size in plan.memory.items():
        if size:
            yield f"    {name:<16} {size_text(size):>10}"
    if plan.step_s is not None and plan.micro_batch_s is not None:
        accumulation = plan.settings["gradient_accumulation"]
        yield (
            f"  a step    {time_text(plan.step_s):>10}  ({accumulation} x {time_text(plan.micro_batch_s)} and the"
            " optimizer)"
        )
    if plan.seconds is not None and plan.total_s is not None:
        yield f"  time      {time_text(plan.total_s):>10}  for {plan.steps} steps and all around them"
        for name, seconds in plan.seconds.items():
            if seconds:
                yield f"    {name:<16} {time_text(seconds):>10}"
    yield f"  disk      {size_text(plan.disk_bytes):>10}  to be written"
    for name, size in plan.disk.items():
        if size:
            yield f"    {name:<16} {size_text(size):>10}"
    for problem in plan.problems:
        yield f"Problem: {problem}"
    for line in plan.advice:
        yield f"Advice: {line}"


def _plain(value: object) -> str:
    words = {True: "true", False: "false", None: "none"}
    return (
        words[value]
        if value is None or isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
