"""A base model with adapters on it: how they come and go, how strong they are along a song, and what recipes tell.

Nothing here reads the base's weights again: an adapter is put on and taken off in milliseconds on nano, and in a
fraction of a second at rank 32 on v1 (benchmarks/adapters.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from acestep.diffusion.guidance import Branches
from acestep.errors import AdapterError, InputError
from acestep.families.base import Conditioning, Family
from acestep.lora.adapter import Adapter, read_adapter
from acestep.lora.attach import attach, detach, module_shapes, set_weights
from acestep.lora.locating import PEFT_WEIGHTS_FILE, WEIGHTS_FILE, locate_adapter
from acestep.lora.metadata import AdapterMetadata, metadata_from_header
from acestep.lora.schedule import NoiseRange, Section, Strength, scheduled_branches
from acestep.lora.tensor_file import open_tensor_file

logger = logging.getLogger(__name__)

LoraPath = str | Path
"""A file, a folder, a hub id, or an official LoRA's name."""
Weight = float | Strength
"""One strength for all of a song, or one that changes along it."""
LoraSpec = LoraPath | tuple[LoraPath, Weight | None] | Mapping[str, Any]
"""A path, a path with its weight, or what a recipe holds of an adapter."""

_Prediction = TypeVar("_Prediction")
_RECORDED = ("path", "weight", "sections", "noise_ranges", "raw_scale", "warning")


@dataclass(frozen=True)
class LoraWish:
    """An adapter as it was asked for; a weight of None is what its file recommends."""

    path: LoraPath
    weight: Weight | None = None
    raw_scale: bool = False


@dataclass(frozen=True)
class AttachedLora:
    """An adapter that is on the network; `warning`: what speaks against it."""

    path: str
    strength: Strength
    raw_scale: bool = False
    warning: str = ""

    @property
    def weight(self) -> Weight:
        """A number where the strength is the same everywhere."""
        return self.strength if self.changes else self.strength.weight

    @property
    def changes(self) -> bool:
        return bool(self.strength.sections or self.strength.noise_ranges)

    def record(self) -> dict[str, Any]:
        """For a recipe, plain JSON values; what is at its default is left out. `lora_wishes` reads it."""
        told: dict[str, Any] = {"path": self.path, "weight": self.strength.weight}
        if self.strength.sections:
            told["sections"] = [[part.start_s, part.end_s, part.weight] for part in self.strength.sections]
        if self.strength.noise_ranges:
            told["noise_ranges"] = [[span.high, span.low, span.factor] for span in self.strength.noise_ranges]
        if self.raw_scale:
            told["raw_scale"] = True
        if self.warning:
            told["warning"] = self.warning
        return told


class AdaptedFamily:
    """A family and the adapters on its network, by name."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.loras: dict[str, AttachedLora] = {}
        self._told: set[str] = set()

    @property
    def device(self) -> torch.device:
        return self.family.device

    def load(
        self, path: LoraPath, weight: Weight | None = None, *, name: str | None = None, raw_scale: bool = False
    ) -> str:
        """Attach an adapter -> its name. weight: None is what its file recommends, 1 where it says nothing.

        raw_scale: the factors as they lie in the file. Raises InputError for a name that is taken or a weight that is
        none, AdapterError for an adapter of another base, and what `read_adapter` raises.
        """
        name = name or self._free_name(Path(path))
        if name in self.loras:
            raise InputError(f"an adapter named {name!r} is attached already; give another name or unload it first")
        wanted = None if weight is None else strength_of(weight)
        adapter = self._read(path, raw_scale=raw_scale)
        strength = wanted or _recommended(adapter.metadata, path)
        warning = self._other_weights(adapter.metadata, path)
        attach(self.family.network, adapter, name=name, weight=strength.weight)
        self.loras[name] = AttachedLora(str(path), strength, raw_scale, warning)
        return name

    def set_weights(self, weights: Mapping[str, Weight]) -> None:
        """Change strengths; a number holds for all of a song, whatever sections there were."""
        self._check_names(weights)
        strengths = {name: strength_of(weight) for name, weight in weights.items()}
        self.loras.update({name: replace(self.loras[name], strength=strength) for name, strength in strengths.items()})
        self._set({name: strength.weight for name, strength in strengths.items()})

    def unload(self, name: str | None = None) -> None:
        """Detach one adapter, or all."""
        names = list(self.loras) if name is None else [name]
        self._check_names(names)
        for attached in names:
            detach(self.family.network, attached)
            del self.loras[attached]

    def branches(self, conditioning: Conditioning, *, frames: int, **options: Any) -> Branches:
        """`Family.branches`, under strengths that may change along the song's frames and its noise levels.

        Between two passes the network has each adapter's plain weight, whatever stops the song.
        """
        build = partial(self.family.branches, conditioning, **options)
        if not any(lora.changes for lora in self.loras.values()):
            return build()
        self._warn_of_late_sections(frames / self.family.latent_rate)
        strengths = {name: lora.strength for name, lora in self.loras.items()}
        scheduled = scheduled_branches(build, self._set, strengths, frames=frames, latent_rate=self.family.latent_rate)
        return Branches(self._restoring(scheduled.conditional), self._restoring(scheduled.contrasted))

    def _restoring(self, predict: Callable[[Tensor, float], _Prediction]) -> Callable[[Tensor, float], _Prediction]:
        def restored(latents: Tensor, sigma: float) -> _Prediction:
            try:
                return predict(latents, sigma)
            finally:
                self._set({name: lora.strength.weight for name, lora in self.loras.items()})

        return restored

    def _set(self, weights: Mapping[str, float]) -> None:
        set_weights(self.family.network, weights)

    def _read(self, path: LoraPath, *, raw_scale: bool) -> Adapter:
        try:
            adapter = read_adapter(path, module_shapes(self.family.network), raw_scale=raw_scale)
        except AdapterError as error:
            self._check_family(metadata_from_header(open_tensor_file(locate_adapter(path).weights).metadata), path)
            raise AdapterError(f"{error}; the base model here is {self.family.name}") from error
        self._check_family(adapter.metadata, path)
        return adapter

    def _check_family(self, made: AdapterMetadata, path: LoraPath) -> None:
        if made.family is not None and made.family != self.family.name:
            raise AdapterError(
                f"{path} was made for {made.family}, this is {self.family.name}; load it on its own base"
            )

    def _other_weights(self, made: AdapterMetadata, path: LoraPath) -> str:
        """What to say of an adapter of other weights of the same family, logged once; empty where they are these."""
        if made.base_fingerprint in (None, self.family.fingerprint()):
            return ""
        base = f" ({made.base_model})" if made.base_model else ""
        warning = f"{path} was trained on other {self.family.name} weights{base} than these; it may sound different"
        if warning not in self._told:
            logger.warning("%s", warning)
        self._told.add(warning)
        return warning

    def _warn_of_late_sections(self, duration_s: float) -> None:
        for name, lora in self.loras.items():
            for section in lora.strength.sections:
                if section.start_s >= duration_s:
                    logger.warning(
                        "%s has a section from %g to %g s, which this song of %.1f s never reaches",
                        name,
                        section.start_s,
                        section.end_s,
                        duration_s,
                    )

    def _check_names(self, names: Iterable[str]) -> None:
        if unknown := [name for name in names if name not in self.loras]:
            raise InputError(
                f"no adapter named {', '.join(unknown)} is attached; attached are {list(self.loras) or 'none'}"
            )

    def _free_name(self, path: Path) -> str:
        # A folder's file has the same name in every folder.
        stem = path.parent.name if path.name in (WEIGHTS_FILE, PEFT_WEIGHTS_FILE) else path.stem
        base = stem.replace(".", "_") or "lora"
        number, name = 2, base
        while name in self.loras:
            name, number = f"{base}_{number}", number + 1
        return name


def lora_wishes(lora_path: LoraSpec | Sequence[LoraSpec] | None, weight: Weight | None = None) -> list[LoraWish]:
    """What `from_pretrained` was asked for: one adapter or a list of them, each alone, with its weight, or as a recipe
    holds it. weight: of those that come alone.
    """
    if lora_path is None:
        return []
    several = isinstance(lora_path, Sequence) and not isinstance(lora_path, str) and not _is_pair(lora_path)
    entries: Any = lora_path if several else [lora_path]
    return [_wish(entry, weight) for entry in entries]


def strength_of(weight: Any) -> Strength:
    """A weight as a strength; InputError for what is neither a number nor a `Strength`."""
    if isinstance(weight, Strength):
        return weight
    if isinstance(weight, Real) and not isinstance(weight, bool):
        return Strength(float(weight))
    raise InputError(f"a LoRA's weight is a number or a Strength, found {weight!r}")


def _wish(entry: Any, weight: Weight | None) -> LoraWish:
    if isinstance(entry, str | Path):
        return LoraWish(entry, weight)
    if isinstance(entry, Mapping):
        return _recorded_wish(entry, weight)
    if isinstance(entry, Sequence) and len(entry) == 2 and isinstance(entry[0], str | Path):
        return LoraWish(entry[0], None if entry[1] is None else strength_of(entry[1]))
    raise InputError(f"{entry!r} is no LoRA; give a path, (path, weight), or a list of these")


def _recorded_wish(entry: Mapping[str, Any], weight: Weight | None) -> LoraWish:
    if not isinstance(entry.get("path"), str | Path) or (entry.keys() - set(_RECORDED)):
        raise InputError(f"{dict(entry)!r} is no LoRA of a recipe; its names are {', '.join(_RECORDED)}")
    plain = entry.get("weight", weight)
    if not (entry.get("sections") or entry.get("noise_ranges")):
        return LoraWish(entry["path"], plain, bool(entry.get("raw_scale")))
    if plain is None:
        raise InputError(f"{dict(entry)!r} has a strength that changes, and no weight beside it")
    try:
        strength = Strength(
            strength_of(plain).weight,
            tuple(Section(*map(float, part)) for part in entry.get("sections") or ()),
            tuple(NoiseRange(*map(float, span)) for span in entry.get("noise_ranges") or ()),
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{dict(entry)!r} is no LoRA of a recipe ({error}); sections are [start_s, end_s, weight], noise_ranges"
            " [high, low, factor]"
        ) from error
    return LoraWish(entry["path"], strength, bool(entry.get("raw_scale")))


def _is_pair(value: Any) -> bool:
    """A path with its weight, and not a list of two paths."""
    return isinstance(value, tuple) and len(value) == 2 and (value[1] is None or isinstance(value[1], Real | Strength))


def _recommended(made: AdapterMetadata, path: LoraPath) -> Strength:
    try:
        return Strength(made.recommended_strength)
    except InputError as error:
        raise AdapterError(f"{path} recommends a strength of {made.recommended_strength}; give a weight") from error
