"""How a song is sampled: what the caller gave, completed by the family's defaults and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from acestep.diffusion.guidance import GuidanceName
from acestep.errors import InputError
from acestep.families.base import ErgName, SamplingDefaults, SchedulerName

MIN_DURATION_S, MAX_DURATION_S = 5.0, 240.0
MAX_STEPS = 1000
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingSettings(SamplingDefaults):
    """A family's defaults with the caller's wishes in place, and what only callers choose.

    oss_steps: chosen steps (1-based) of a longer schedule; text_scale, lyric_scale: the weights of double guidance.
    """

    oss_steps: tuple[int, ...] = ()
    text_scale: float = 5.0
    lyric_scale: float = 1.5

    @classmethod
    def complete(cls, defaults: SamplingDefaults, **wishes: Any) -> SamplingSettings:
        """Fill what is None from `defaults`. Raises InputError with everything that is out of range, at once."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(wishes.keys() - known)
        if unknown:
            raise InputError(f"unknown settings {unknown}; known are {sorted(known)}")
        given = {name: value for name, value in wishes.items() if value is not None}
        for name in ("erg", "oss_steps"):
            if name in given:
                given[name] = tuple(given[name])
        settings = cls(**{**asdict(defaults), **given})
        if settings.oss_steps:
            settings = cls(**{**asdict(settings), "steps": len(settings.oss_steps)})
        problems = list(_problems(settings))
        if problems:
            raise InputError("; ".join(problems))
        return settings

    def wishes(self) -> dict[str, Any]:
        """Everything as keywords of the pipeline, so that later defaults cannot change a song; plain JSON values."""
        values = asdict(self)
        chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        if not self.oss_steps:
            chosen.pop("oss_steps")
        if self.guidance != "double":
            chosen.pop("text_scale"), chosen.pop("lyric_scale")
        return chosen


def check_duration(duration_s: float) -> float:
    """The duration itself, if a song can have it."""
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise InputError(f"duration is {duration_s:g} s; give {MIN_DURATION_S:g} to {MAX_DURATION_S:g} s")
    return float(duration_s)


def check_seed(seed: int) -> int:
    """The seed itself, if a generator takes it."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed is {seed}; give a whole number from 0 to {MAX_SEED}")
    return seed


def _problems(settings: SamplingSettings) -> Sequence[str]:
    choices: dict[str, tuple[str, ...]] = {"scheduler": get_args(SchedulerName), "guidance": get_args(GuidanceName)}
    found = [
        f"{name} is {getattr(settings, name)!r}; choose one of {', '.join(known)}"
        for name, known in choices.items()
        if getattr(settings, name) not in known
    ]
    found += [
        f"erg has {name!r}; known are {', '.join(get_args(ErgName))}"
        for name in settings.erg
        if name not in get_args(ErgName)
    ]
    if not 1 <= settings.steps <= MAX_STEPS:
        found.append(f"steps is {settings.steps}; give 1 to {MAX_STEPS}")
    ranges = {
        "guidance_scale": (0, 100), "min_guidance_scale": (0, 100), "guidance_interval": (0, 1),
        "guidance_interval_decay": (0, 1), "omega_scale": (-100, 100), "text_scale": (0, 100), "lyric_scale": (0, 100),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:  # a NaN is refused here too
            found.append(f"{name} is {getattr(settings, name)}; give {low} to {high}")
    if settings.oss_steps and (
        list(settings.oss_steps) != sorted(set(settings.oss_steps)) or settings.oss_steps[0] < 1
    ):
        found.append(f"oss_steps is {list(settings.oss_steps)}; give rising step numbers from 1")
    if settings.oss_steps and settings.scheduler == "heun":
        found.append("oss_steps do not go with heun; choose euler or pingpong")
    return found
