"""A real step at a run's own shapes: what it takes and how long, before the run begins.

The material is noise, since the cost of a step does not depend on what it hears. The family, its network and all
random numbers are afterwards what they were.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from acestep.families.base import Conditioning, Family
from acestep.training.memory import peak_memory_bytes
from acestep.training.optimization import Optimization
from acestep.training.planning.step_run import material, prepared, run_micro_batch
from acestep.training.planning.step_settings import StepSettings
from acestep.training.precision import autocast

_ROUNDS = 3
_PATIENCE_S = 20.0
_CODEC_S = 5.0

Clock = Callable[[], float]


@dataclass(frozen=True)
class ProbeResult:
    """What was seen. fits: False where memory ran out, and all else is then 0.

    memory_bytes: the most that tensors held on a GPU, or else the process, as `StepResult.memory_bytes` counts it;
    micro_batch_s: forward and backward of one micro-batch; update_s: clipping and the optimizer's step; forward_s: a
    forward pass of one micro-batch without gradients.
    """

    fits: bool
    memory_bytes: int = 0
    micro_batch_s: float = 0.0
    update_s: float = 0.0
    forward_s: float = 0.0
    accumulation: int = 1

    @property
    def step_s(self) -> float:
        """An optimizer step: its micro-batches one after the other, and the update."""
        return self.accumulation * self.micro_batch_s + self.update_s


@dataclass(frozen=True)
class CodecPace:
    """Seconds that a second of audio takes; None where the family cannot do it."""

    encode: float | None
    decode: float | None


def probe_step(
    family: Family, settings: StepSettings, example: Conditioning, *, clock: Clock = time.perf_counter
) -> ProbeResult:
    """Run a step to warm up and then some more, their median counting; 20 s are enough for a slow machine.

    Out of memory is an answer and no error. clock: what is to be told in seconds.
    """
    device = family.device
    try:
        with torch.enable_grad(), _measured_apart(device):
            return _probe(family, settings, example, clock)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return ProbeResult(fits=False, accumulation=settings.accumulation)


def probe_codec(family: Family, *, clock: Clock = time.perf_counter) -> CodecPace:
    """Encode and decode five seconds of silence, after a shorter piece to warm up."""

    def encode(seconds: float) -> None:
        family.encode_audio(torch.zeros(1, 2, int(seconds * family.sample_rate)))

    def decode(seconds: float) -> None:
        family.decode_latents(torch.zeros(1, 8, 16, family.latent_frames(seconds), device=family.device))

    return CodecPace(_pace(family, encode, clock), _pace(family, decode, clock))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of the ways that torch and Python say it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)


def _probe(family: Family, settings: StepSettings, example: Conditioning, clock: Clock) -> ProbeResult:
    device = family.device
    with prepared(family, settings) as adapter:
        given = material(example, settings, device)
        optimization = Optimization(adapter.parameters(), settings.optimization)

        def timed(run: Callable[[], object]) -> float:
            _finish(device)
            began = clock()
            run()
            _finish(device)
            return clock() - began

        def micro_batch() -> None:
            run_micro_batch(family, settings, given)

        def update() -> None:
            optimization.clip()
            optimization.step(0)

        @torch.no_grad()
        def forward() -> None:
            with autocast(device, settings.autocast):
                family.velocity(given[0], given[2].sigmas.to(device), given[1])

        micro_batch()
        update()
        micros: list[float] = []
        updates: list[float] = []
        spent = time.monotonic()
        while len(micros) < _ROUNDS and (not micros or time.monotonic() - spent < _PATIENCE_S):
            # Two in a row, because a second one finds the first one's gradients there.
            micros.append(timed(micro_batch))
            micros.append(timed(micro_batch))
            updates.append(timed(update))
        return ProbeResult(
            fits=True,
            memory_bytes=peak_memory_bytes(device),
            micro_batch_s=statistics.median(micros),
            update_s=statistics.median(updates),
            forward_s=min(timed(forward) for _ in range(2)),
            accumulation=settings.accumulation,
        )


@contextmanager
def _measured_apart(device: torch.device) -> Iterator[None]:
    """A GPU's counts begin anew before the block; after it nothing of the probe is kept."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _pace(family: Family, run: Callable[[float], None], clock: Clock) -> float | None:
    try:
        run(_CODEC_S / 5)
        _finish(family.device)
        began = clock()
        run(_CODEC_S)
        _finish(family.device)
    except NotImplementedError:
        return None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return (clock() - began) / _CODEC_S
