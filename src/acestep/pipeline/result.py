"""A finished song: its audio, its recipe, and how it is written to a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from acestep.audio.files import read_tags, write_audio
from acestep.errors import InputError

RECIPE_TAG = "ACESTEP_RECIPE"


@dataclass(frozen=True)
class GenerationResult:
    """audio: (channels, samples) float32 on the CPU; latents: (1, 8, 16, frames), what the audio was decoded from.

    `params` are the arguments that make the same song again: `pipe(**result.params)` for a plain song. `recipe` adds
    what they were given to: task, model, its fingerprint, adapters with weights, version.
    """

    audio: Tensor
    sample_rate: int
    seed: int
    params: dict[str, Any]
    latents: Tensor = field(repr=False)
    recipe: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def duration_s(self) -> float:
        return self.audio.shape[-1] / self.sample_rate

    def save(self, path: str | Path) -> Path:
        """Write the song as wav, flac, ogg or mp3, by the path's extension, whole or not at all.

        The recipe goes into its tags.
        """
        path = Path(path)
        tags = {
            "title": str(self.params.get("prompt", ""))[:120],
            "comment": "Made with acestep, a music model (AI-generated)",
            RECIPE_TAG: json.dumps(self.recipe, ensure_ascii=False, sort_keys=True),
        }
        write_audio(path, self.audio.numpy(), self.sample_rate, tags=tags)
        return path


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in a song's tags. Raises InputError where the file has none."""
    text = read_tags(Path(path)).get(RECIPE_TAG)
    if text is None:
        raise InputError(f"{path} carries no acestep recipe; it was made elsewhere, or a program removed its tags")
    try:
        recipe: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"{path} carries a damaged recipe ({error}); make the song from its known parameters"
        ) from error
    return recipe
