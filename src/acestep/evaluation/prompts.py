"""Prompts to evaluate with, read from the forms that people keep them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from acestep.errors import InputError

MAX_PROMPTS = 500

FORMS = (
    ".txt (a prompt a line, # starts a comment), .json or .yaml (a list of prompts, or of {prompt, lyrics}), "
    "or .jsonl (one {prompt, lyrics} a line)"
)


class Prompt(BaseModel, frozen=True, extra="forbid"):
    """What a song is asked for with."""

    prompt: str = Field(min_length=1)
    lyrics: str = ""


Item = Annotated[Prompt | Annotated[str, Field(min_length=1)], Field(union_mode="left_to_right")]
_ITEMS = TypeAdapter(list[Item])


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file, in order; InputError says what is wrong with it and which forms are read."""
    readers = {
        ".txt": _from_lines,
        ".json": _from_json,
        ".jsonl": _from_json_lines,
        ".yaml": _from_yaml,
        ".yml": _from_yaml,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} is not a prompts file that acestep reads; expected {FORMS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no prompts file {path}; expected {FORMS}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    prompts = _checked(path, reader(path, text))
    if not 0 < len(prompts) <= MAX_PROMPTS:
        raise InputError(f"{path} holds {len(prompts)} prompts; expected 1 to {MAX_PROMPTS}")
    return prompts


def _from_lines(path: Path, text: str) -> Any:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _from_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}); expected {FORMS}") from None


def _from_json_lines(path: Path, text: str) -> Any:
    items = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                items.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}: not JSON ({error.msg}); expected {FORMS}") from None
    return items


def _from_yaml(path: Path, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path}{place}: not YAML; expected {FORMS}") from None


def _checked(path: Path, items: Any) -> list[Prompt]:
    if not isinstance(items, list):
        raise InputError(f"{path} holds {_named(items)}; expected a list of prompts: {FORMS}")
    try:
        parsed = _ITEMS.validate_python(items)
    except ValidationError as error:
        wrong = sorted({int(problem["loc"][0]) for problem in error.errors()})
        shown = "; ".join(f"item {index + 1} is {_named(items[index])}" for index in wrong[:5])
        raise InputError(
            f"{path}: {len(wrong)} of {len(items)} items are not prompts ({shown}); expected a text or "
            '{"prompt": ..., "lyrics": ...}, with nothing else in it'
        ) from None
    return [item if isinstance(item, Prompt) else Prompt(prompt=item) for item in parsed]


def _named(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "..."
