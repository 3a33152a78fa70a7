"""The processes that share one run: each takes a part of every step, and all of them stay alike.

Only the adapter learns, and its numbers are few, so nothing is wrapped: every process holds the whole adapter, the
gradients of a step are added up once, and each takes the same optimizer step. One process alone is the same code with
nothing to share, and pays nothing. Several cost a step one sum of the gradients and three small messages.

Whatever may fail on one of them is done inside `each`, `together` or `first`, after which all know: an error of one
becomes the error of all, at the same place, so that none is left waiting for another.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from acestep.errors import ConfigError, TrainingError

T = TypeVar("T")

_STEP_LIMIT = timedelta(hours=1)
"""For a part of a step; a process that dies is noticed at once, this is for one that hangs."""
_LONG_LIMIT = timedelta(days=2)
"""For what one process may do for long while the others wait: encoding recordings, making songs."""
_SUM_LIMIT = timedelta(minutes=10)
"""For sums and for parts of the base, at which all arrive at about the same time."""
_FAREWELL_LIMIT = timedelta(seconds=60)


class Processes:
    """This process alone. `SeveralProcesses` says what changes where there are more."""

    rank = 0
    count = 1
    shards_base = False
    """Whether each holds a part of the frozen base only, and gets the rest from the others as it is needed."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes, shows progress and is heard by callbacks."""
        return self.rank == 0

    def device(self, wanted: torch.device) -> torch.device:
        """Where this process is to compute, of what was asked for all."""
        return wanted

    def gather(self, value: T) -> list[T]:
        """Everyone's value, in the order of ranks."""
        return [value]

    def together(self, work: Callable[[], T]) -> list[T]:
        """Everyone works -> what came of it, in the order of ranks. An error of one is raised by all."""
        return [work()]

    def each(self, work: Callable[[], T]) -> T:
        """As `together`, for results that stay where they are -> the own one."""
        return work()

    def first(self, work: Callable[[], T]) -> T:
        """The first process works, the others wait -> what came of it, for all; an error likewise."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """For work that keeps its results on disk: the first does it, then the others find it done."""
        return work()

    def require_alike(self, **told: Callable[[], str]) -> None:
        """TrainingError naming what the processes do not have in common."""

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their sums over all processes; no gradient counts as zero, if another has one."""

    def wait_for_first(self) -> None:
        """Let the first process finish what it does when a run fails. Waits a minute at most, and raises nothing."""


class SeveralProcesses(Processes):
    """One of several, started by `accelerate launch` or `torchrun`.

    Messages take a way of their own over the CPU, so that a process that has died is noticed at once: its connections
    close. TrainingError then, and where one has not answered in an hour.
    """

    def __init__(self, rank: int, count: int, device: torch.device, *, shards_base: bool = False) -> None:
        import torch.distributed as dist

        self.rank, self.count, self.shards_base = rank, count, shards_base
        self._device = device
        self._prompt = dist.new_group(backend="gloo", timeout=_STEP_LIMIT)
        self._patient = dist.new_group(backend="gloo", timeout=_LONG_LIMIT)

    def device(self, wanted: torch.device) -> torch.device:
        # All were given the same argument, so a GPU's number in it can be right for one of them at most.
        return self._device if wanted.type == self._device.type else wanted

    def gather(self, value: T) -> list[T]:
        return self._gather(value, self._prompt)

    def together(self, work: Callable[[], T]) -> list[T]:
        return [outcome.value for outcome in self._settled(_outcome(work), self._prompt)]

    def each(self, work: Callable[[], T]) -> T:
        mine = _outcome(work)
        self._settled(_Outcome(None, mine.error), self._patient)
        value: T = mine.value
        return value

    def first(self, work: Callable[[], T]) -> T:
        mine = _outcome(work) if self.is_first else _Outcome(None)
        value: T = self._settled(mine, self._patient)[0].value
        return value

    def in_turn(self, work: Callable[[], T]) -> T:
        mine = _outcome(work) if self.is_first else _Outcome(None)
        self._settled(_Outcome(None, mine.error), self._patient)
        return self.each(lambda: mine.value if self.is_first else work())

    def require_alike(self, **told: Callable[[], str]) -> None:
        everyones = self.together(lambda: {what: tell() for what, tell in told.items()})
        differing = [what for what in told if len({one[what] for one in everyones}) > 1]
        if differing:
            raise TrainingError(
                f"the {self.count} processes of this run differ in their {', '.join(differing).replace('_', ' ')}; all"
                " must read the same files, on a file system that they share, and be given the same"
            )

    @torch.no_grad()
    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        import torch.distributed as dist

        members = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        # What no process has a gradient for must stay without one, or weight decay would begin to move it.
        present = torch.tensor([float(p.grad is not None) for p in members], device=parts[0].device)
        whole = torch.cat([present, *(part.flatten() for part in parts)])
        with _answering():
            dist.all_reduce(whole, group=self._prompt if whole.device.type == "cpu" else None)
        found, *sums = torch.split(whole, [len(members), *(p.numel() for p in members)])
        for parameter, has, total in zip(members, found.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) if has else None

    def wait_for_first(self) -> None:
        import torch.distributed as dist

        try:
            dist.monitored_barrier(group=self._patient, timeout=_FAREWELL_LIMIT)
        except RuntimeError:
            return

    def _gather(self, value: T, group: Any) -> list[T]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        with _answering():
            dist.all_gather_object(found, value, group=group)
        return found

    def _settled(self, mine: _Outcome, group: Any) -> list[_Outcome]:
        """Everyone's outcome; the first error among them is raised, by whose process it happened to in its own form."""
        outcomes = self._gather(_Outcome(mine.value, mine.error and _portable(mine.error)), group)
        for rank, outcome in enumerate(outcomes):
            if outcome.error is not None:
                raise (mine.error if rank == self.rank else None) or outcome.error
        return outcomes


@dataclass(frozen=True)
class _Outcome:
    value: Any
    error: BaseException | None = None


def _outcome(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(work())
    except BaseException as error:
        return _Outcome(None, error)


def _portable(error: BaseException) -> BaseException:
    """The error as another process can raise it, without what it came of."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:  # classes may refuse either in any way they like
        pass
    return TrainingError(f"{type(error).__name__}: {error}")


@contextmanager
def _answering() -> Iterator[None]:
    """What torch raises where another process is gone or silent becomes a TrainingError."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this run has ended or does not answer ({str(error).splitlines()[0]}); its own"
            " messages say why. The run goes on from its last checkpoint with --resume, with any number of processes"
        ) from error


def join_processes(device: torch.device) -> Processes:
    """The processes that a launcher started beside this one, or this one alone; `device` says which kind computes.

    Waits for the others. accelerate is imported where there are others and not otherwise; ConfigError where it is
    not installed, TrainingError where the others cannot be reached.
    """
    try:
        count = int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        count = 1
    return _join(device.type == "cpu") if count > 1 and "RANK" in os.environ else Processes()


def shared_out(items: Sequence[T], cost: Callable[[T], float], count: int) -> list[list[T]]:
    """The items in `count` shares of about equal cost, each in the items' own order; shares may be empty."""
    loads = [0.0] * count
    chosen: list[list[int]] = [[] for _ in range(count)]
    for place in sorted(range(len(items)), key=lambda place: -cost(items[place])):
        lightest = loads.index(min(loads))
        chosen[lightest].append(place)
        loads[lightest] += cost(items[place])
    return [[items[place] for place in sorted(places)] for places in chosen]


@cache
def _join(on_cpu: bool) -> Processes:
    try:
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env
    except ImportError as error:
        raise ConfigError("a run of several processes needs accelerate: pip install accelerate") from error
    try:
        state = PartialState(cpu=on_cpu, timeout=_SUM_LIMIT)
        if state.num_processes == 1:
            return Processes()
        return SeveralProcesses(
            state.process_index,
            state.num_processes,
            state.device,
            shards_base=parse_flag_from_env("ACCELERATE_USE_FSDP"),
        )
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the other processes of this run cannot be reached ({error}); start all of them with accelerate launch or"
            " torchrun"
        ) from error
