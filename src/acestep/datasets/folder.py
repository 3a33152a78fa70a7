"""The dataset folder: which recordings it holds, what is known about each, and what is wrong with it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.audio.streaming import AUDIO_SUFFIXES, duration_s
from acestep.datasets.annotations import Annotation, parse_annotation, read_annotation, read_metadata_csv
from acestep.errors import AudioError, DatasetError

FEW_TRACKS = 20
ADVISED_TRACKS = 50
ADVISED_S = 3600.0
SHORT_S, LONG_S = 30.0, 240.0


@dataclass(frozen=True)
class Track:
    """One recording; `name` is its path below audio/."""

    name: str
    path: Path
    annotation: Annotation
    duration_s: float


@dataclass(frozen=True)
class Problem:
    """Why a track cannot be used."""

    track: str
    reason: str


@dataclass(frozen=True)
class DatasetFolder:
    """What was found. `problems` are tracks left out, `warnings` things to know before training."""

    root: Path
    tracks: tuple[Track, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def read_dataset_folder(root: str | Path, *, skip_bad: bool = False) -> DatasetFolder:
    """Read `audio/`, `annotations/` and `metadata.csv`; only the headers of recordings are looked at.

    Raises DatasetError for a folder without usable tracks, and, unless skip_bad, for any track that cannot be used,
    naming all of them.
    """
    root = Path(root)
    recordings = _find_recordings(root)
    rows = _rows_by_name(root)
    tracks: list[Track] = []
    problems: list[Problem] = []
    for path in recordings:
        name = path.relative_to(root / "audio").as_posix()
        try:
            _require_text(name)
            annotation = parse_annotation(_known_about(root, name, rows))
            tracks.append(Track(name, path, annotation, duration_s(path)))
        except (DatasetError, AudioError) as error:
            problems.append(Problem(name.encode("utf-8", "backslashreplace").decode(), str(error)))
    require_usable(root, problems, total=len(recordings), skip_bad=skip_bad)
    return DatasetFolder(root, tuple(tracks), tuple(problems), tuple(_warnings(tracks, rows, recordings, root)))


def require_usable(root: Path, problems: Sequence[Problem], *, total: int, skip_bad: bool) -> None:
    """Raise DatasetError naming all offenders, where there are any, or none but offenders if they may be skipped."""
    if not problems or (skip_bad and len(problems) < total):
        return
    listed = "\n".join(f"  {problem.track}: {problem.reason}" for problem in problems)
    advice = "" if skip_bad else "\nmend them, or leave them out with skip_bad=True (--skip-bad)"
    raise DatasetError(f"{len(problems)} of {total} tracks in {root} cannot be used:\n{listed}{advice}")


def _find_recordings(root: Path) -> list[Path]:
    folder = root / "audio"
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; expected one with audio/ and annotations/ in it")
    if not folder.is_dir():
        raise DatasetError(f"{root} has no folder audio/; put the recordings there")
    visible = sorted(_audio_files(folder))
    if not visible:
        kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in AUDIO_SUFFIXES))
        raise DatasetError(f"{folder} holds no recordings; expected files of these kinds: {kinds}")
    return visible


def _audio_files(folder: Path) -> Iterator[Path]:
    """Not hidden, links and linked folders too; a link to nothing is found, so that it can be named."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # A folder that is linked from inside itself would go on for ever.
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real in seen:
            continue
        seen.add(real)
        for name in files:
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in AUDIO_SUFFIXES:
                yield path


def _rows_by_name(root: Path) -> dict[str, dict[str, Any]]:
    path = root / "metadata.csv"
    if not path.exists():
        return {}
    # Some write the path from the folder, some from audio/.
    return {_plain(name).removeprefix("audio/"): values for name, values in read_metadata_csv(path).items()}


def _known_about(root: Path, name: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The row's values under those of the annotation, which win."""
    annotation = _annotation_file(root, name)
    row = rows.get(_plain(name), {})
    if annotation is None and not row:
        expected = f"annotations/{Path(name).with_suffix('.json').as_posix()}"
        raise DatasetError(f"it has no annotation; expected {expected} or a line in metadata.csv")
    return {**row, **(read_annotation(annotation) if annotation else {})}


def _require_text(name: str) -> None:
    """DatasetError for a name of bytes that are no UTF-8: no log, JSON or model card could tell it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DatasetError("its name is no UTF-8 text; rename it") from error


def _annotation_file(root: Path, name: str) -> Path | None:
    folder = root / "annotations"
    direct = folder / Path(name).with_suffix(".json")
    # os.path, because Path.exists raises for a name that is too long to exist.
    if os.path.exists(direct):
        return direct
    wanted = _plain(direct.name)
    siblings = direct.parent.glob("*.json") if direct.parent.is_dir() else iter(())
    return next((path for path in siblings if _plain(path.name) == wanted), None)


def _plain(name: str) -> str:
    """One spelling: a Mac writes an umlaut as two characters, other systems as one."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def _warnings(tracks: Sequence[Track], rows: Mapping[str, Any], recordings: Sequence[Path], root: Path) -> list[str]:
    found = []
    total_s = sum(track.duration_s for track in tracks)
    if len(tracks) < FEW_TRACKS:
        found.append(f"{len(tracks)} tracks are few; a LoRA from under {FEW_TRACKS} tends to repeat them")
    elif len(tracks) < ADVISED_TRACKS or total_s < ADVISED_S:
        found.append(f"{len(tracks)} tracks, {total_s / 60:.0f} minutes; {ADVISED_TRACKS} and one hour are advised")
    for what, names in (
        (f"shorter than {SHORT_S:.0f} s", [track.name for track in tracks if track.duration_s < SHORT_S]),
        (f"longer than {LONG_S:.0f} s", [track.name for track in tracks if track.duration_s > LONG_S]),
    ):
        if names:
            found.append(f"{len(names)} tracks are {what}, such as {names[0]}")
    present = {_plain(path.relative_to(root / "audio").as_posix()) for path in recordings}
    if absent := [name for name in rows if name not in present]:
        found.append(f"metadata.csv names {len(absent)} files that are not in audio/, such as {absent[0]}")
    return found
