"""The official LoRAs of ACE-Step v1: what each is for, where it lies, and how strong it was trained to be.

Names, purposes and sizes are the project's own announcements; a planned one has no files yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from acestep.errors import MissingWeightsError
from acestep.lora.strength import StrengthSettings

Status = Literal["released", "planned"]


@dataclass(frozen=True)
class OfficialLora:
    """One of the project's own adapters."""

    name: str
    purpose: str
    best_use: str
    status: Status
    example_prompt: str
    size_mb: int | None = None
    hub_id: str | None = None
    trained: StrengthSettings | None = None
    """Where its file does not say how strong it was trained to be."""


CATALOGUE = (
    OfficialLora(
        "Lyric2Vocal",
        purpose="pure vocals from lyrics",
        best_use="vocal demos, guide tracks and layers over your own instrumental; give lyrics, leave instruments out",
        status="released",
        example_prompt="a cappella, female vocal, clear, warm, slow ballad",
        size_mb=45,
        hub_id="ACE-Step/ACE-Step-v1-Lyric2Vocal-LoRA",
    ),
    OfficialLora(
        "Text2Samples",
        purpose="instrumental samples and loops from a description",
        best_use="single instruments and loops for production; short durations, no lyrics",
        status="released",
        example_prompt="funk slap bass loop, 105 bpm, E minor, dry",
        size_mb=38,
        hub_id="ACE-Step/ACE-Step-v1-Text2Samples-LoRA",
    ),
    OfficialLora(
        "RapMachine",
        purpose="rap, in Chinese above all",
        best_use="rap verses with a clear flow; structure tags in the lyrics help",
        status="released",
        example_prompt="rap, hip hop, trap drums, 808 bass, male vocal, aggressive, 90 bpm",
        size_mb=52,
        hub_id="ACE-Step/ACE-Step-v1-chinese-rap-LoRA",
        # The released recipe: alpha / sqrt(rank) = 2, and the file names no alpha.
        trained=StrengthSettings(rank=256, alpha=32.0, rslora=True),
    ),
    OfficialLora(
        "StemGen",
        purpose="a single stem that fits a given track",
        best_use="adding an instrument to a recording",
        status="planned",
        example_prompt="electric guitar stem, rock, 120 bpm",
    ),
    OfficialLora(
        "Singing2Accompaniment",
        purpose="an accompaniment for a recorded voice",
        best_use="finishing a song of which there is only the singing",
        status="planned",
        example_prompt="acoustic folk accompaniment, guitar, soft drums",
    ),
    OfficialLora(
        "EDMaster",
        purpose="electronic dance music",
        best_use="drops, builds and club mixes",
        status="planned",
        example_prompt="progressive house, euphoric, sidechain, 128 bpm",
    ),
    OfficialLora(
        "LoFiVibes",
        purpose="lo-fi beats",
        best_use="background music to study or relax to",
        status="planned",
        example_prompt="lo-fi hip hop, dusty drums, jazzy piano, vinyl crackle, 75 bpm",
    ),
)


def find_official(name: str | Path) -> OfficialLora | None:
    """By its name in any case, by its hub id, or by a path inside the hub's cache; None for anything else."""
    text = str(name)
    parts = Path(text).parts
    names = {text.casefold(), *(part.removeprefix("models--").replace("--", "/").casefold() for part in parts)}
    for lora in CATALOGUE:
        hub_id = lora.hub_id.casefold() if lora.hub_id else None
        if text.casefold() == lora.name.casefold() or hub_id in names:
            return lora
    return None


def hub_id_of(name: str | Path) -> str | None:
    """Where an official LoRA can be got; None for a name that is none. MissingWeightsError for a planned one."""
    if (lora := find_official(name)) is None:
        return None
    if lora.hub_id is None:
        released = ", ".join(other.name for other in CATALOGUE if other.status == "released")
        raise MissingWeightsError(f"{lora.name} is planned and not released yet; released are {released}")
    return lora.hub_id


def trained_strength(name: str | Path) -> StrengthSettings | None:
    """What an official LoRA's own file leaves out."""
    found = find_official(name)
    return None if found is None else found.trained
