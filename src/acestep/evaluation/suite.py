"""A fixed set of prompts outside any one style, to hear what a LoRA did to the rest of a model, and where it breaks.

The file beside this module is public domain and of our own writing. Any beginning of its list is a spread over genres,
tempos, moods, voices and languages, so fewer prompts make a smaller suite and not a narrower one. A version's words
never change: figures are compared by version and sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from acestep.errors import InputError
from acestep.evaluation.prompts import Prompt

FORMAT = "acestep-prompt-suite-1"
SUITE_FILE = Path(__file__).with_name("prompt_suite.json")
MAX_REPEAT = 1000


class SuitePrompt(Prompt, frozen=True, extra="forbid"):
    """A prompt with a name. language: of the lyrics or an unusual prompt, ISO 639-1."""

    id: str = Field(min_length=1)
    language: str = ""


class EdgePrompt(SuitePrompt, frozen=True, extra="forbid"):
    """A prompt at the edge of what people ask for, which may be empty.

    expect: whether a song or a clear refusal is right.
    """

    prompt: str = ""
    why: str = ""
    expect: Literal["song", "refused"] = "song"


class _EdgeEntry(EdgePrompt, frozen=True, extra="forbid"):
    """As the file has it: the prompt is `repeat` copies of its text."""

    repeat: int = Field(default=1, ge=1, le=MAX_REPEAT)

    def written_out(self) -> EdgePrompt:
        values = self.model_dump(exclude={"repeat"})
        return EdgePrompt(**{**values, "prompt": self.prompt * self.repeat})


class _File(BaseModel, frozen=True, extra="forbid"):
    format: Literal["acestep-prompt-suite-1"]
    version: str = Field(min_length=1)
    licence: str = ""
    prompts: tuple[SuitePrompt, ...] = Field(min_length=2)
    edge: tuple[_EdgeEntry, ...] = ()


@dataclass(frozen=True)
class PromptSuite:
    """sha256: of the file it was read from."""

    version: str
    sha256: str
    prompts: tuple[SuitePrompt, ...]
    edge: tuple[EdgePrompt, ...]

    def first(self, count: int) -> tuple[SuitePrompt, ...]:
        """A smaller suite; InputError where it has not so many."""
        if not 1 <= count <= len(self.prompts):
            raise InputError(f"{count} suite prompts were asked for; this suite has 1 to {len(self.prompts)}")
        return self.prompts[:count]

    def as_dict(self) -> dict[str, Any]:
        """What a report card says of it."""
        return {"version": self.version, "sha256": self.sha256, "prompts": len(self.prompts), "edge": len(self.edge)}


def read_suite(path: Path | None = None) -> PromptSuite:
    """The suite of this package, or one of the same form; InputError says what is wrong with it."""
    path = SUITE_FILE if path is None else path
    try:
        content = path.read_bytes()
        found = _File.model_validate(json.loads(content))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; expected a prompt suite ({FORMAT})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a prompt suite ({FORMAT}): {_told(error)}") from None
    if repeated := _repeated([prompt.id for prompt in (*found.prompts, *found.edge)]):
        raise InputError(f"{path}: the ids {', '.join(repeated)} occur twice; every prompt needs its own")
    edge = tuple(entry.written_out() for entry in found.edge)
    return PromptSuite(found.version, hashlib.sha256(content).hexdigest(), found.prompts, edge)


def _told(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{error}" or type(error).__name__
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg'].lower()}"


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
