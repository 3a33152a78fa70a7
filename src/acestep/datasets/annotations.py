"""What is known about a recording: prompt, lyrics, tags, tempo and key, from a JSON file or a row of metadata.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.errors import DatasetError


@dataclass(frozen=True)
class Annotation:
    """Empty parts are unknown; `prompt` and `tags` are not both empty."""

    prompt: str = ""
    lyrics: str = ""
    tags: tuple[str, ...] = ()
    bpm: float | None = None
    key: str = ""

    def text_prompt(self) -> str:
        """What the model is told: prompt, tags, tempo and key, each said once, in that order, between commas."""
        said = self.prompt.strip().rstrip(",.")
        for tag in self.tags:
            said = _with(said, tag, tag)
        if self.bpm is not None and not re.search(r"\bbpm\b", said, re.IGNORECASE):
            said = _with(said, f"{round(self.bpm)} bpm", f"{round(self.bpm)} bpm")
        return _with(said, self.key, self.key)


def read_annotation(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DatasetError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"{path.name} holds a {type(values).__name__}; expected an object with a prompt")
    return values


def read_metadata_csv(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by their filename as it is written; genre and mood become tags. DatasetError where no rows can be told."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} cannot be read as UTF-8 text: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
    if "filename" not in columns:
        found = ", ".join(columns) or "nothing"
        raise DatasetError(f"{path.name} needs a first line with filename and prompt; it has: {found}")
    reader.fieldnames = columns
    rows: dict[str, dict[str, Any]] = {}
    try:
        for row in reader:
            values = {name: value.strip() for name, value in row.items() if isinstance(value, str) and value.strip()}
            if filename := values.pop("filename", ""):
                tags = [values.pop(name) for name in ("tags", "genre", "mood") if name in values]
                rows[filename] = {**values, "tags": ", ".join(tags)}
    except csv.Error as error:
        raise DatasetError(f"{path.name}, line {reader.line_num}: {error}") from error
    return rows


def parse_annotation(values: Mapping[str, Any]) -> Annotation:
    """DatasetError says which value cannot be what its name says."""
    annotation = Annotation(
        prompt=_text(values, "prompt"),
        lyrics=_text(values, "lyrics"),
        tags=_tags(values.get("tags")),
        bpm=_bpm(values.get("bpm")),
        key=_text(values, "key"),
    )
    if not annotation.prompt and not annotation.tags:
        raise DatasetError("its annotation has neither a prompt nor tags")
    return annotation


def _with(said: str, phrase: str, addition: str) -> str:
    """`said` and the addition, unless the phrase is in it already as whole words."""
    if not phrase or re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", said, re.IGNORECASE):
        return said
    return f"{said}, {addition}" if said else addition


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DatasetError(f"its {name} is {value!r}; expected text")
    return value.strip()


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise DatasetError(f"its tags are {value!r}; expected a list of words, or words between commas")
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def _bpm(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not 10 <= number <= 500:
        raise DatasetError(f"its bpm is {value!r}; expected a number of beats a minute, 10 to 500")
    return number
