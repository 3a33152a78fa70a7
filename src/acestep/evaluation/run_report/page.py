"""report.html of a run: curves, events and players as one file, which opens from the file system without a server.

Songs are linked where they lie; all else is inside. Everything from outside (prompts, names, config) is escaped by the
template. A run of 100,000 steps makes a page of about a megabyte in seconds: curves are thinned before they are drawn.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from acestep.errors import InputError
from acestep.evaluation.page_templates import page_environment, plain_number
from acestep.evaluation.run_report import summary
from acestep.evaluation.run_report.curves import (
    MAX_TRACKS,
    TrackChange,
    learning_curves,
    machine_curves,
    steps_per_epoch,
    track_changes,
)
from acestep.evaluation.run_report.events import gathered, happenings
from acestep.evaluation.run_report.figures import RunFigures
from acestep.evaluation.run_report.songs import song_table
from acestep.evaluation.whole_file import write_text_whole
from acestep.training.history import RunHistory

PAGE_FILE = "report.html"
MAX_EVENTS = 300
MAX_LOOKS = 100


def write_run_page(
    history: RunHistory,
    figures: RunFigures,
    path: Path | None = None,
    *,
    refresh_s: float | None = None,
    now: datetime | None = None,
) -> Path:
    """Write the page whole or not at all, by default as report.html into the run folder -> its path.

    refresh_s: the page reloads itself so often, while no song is playing. InputError where it cannot be written.
    """
    path = path or history.folder / PAGE_FILE
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file, such as {path / PAGE_FILE}")
    page = render_run_page(history, figures, page_folder=path.parent, refresh_s=refresh_s, now=now)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text_whole(path, page)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); give another place with --out FILE"
        ) from error


def render_run_page(
    history: RunHistory,
    figures: RunFigures,
    *,
    page_folder: Path,
    refresh_s: float | None = None,
    now: datetime | None = None,
) -> str:
    """The page's HTML; links to songs are relative to `page_folder`."""
    now = now or datetime.now(UTC)
    told = happenings(history)
    events = gathered(told)
    tracks = track_changes(history)
    songs = song_table(history, page_folder)
    looks = figures.looks
    return (
        page_environment()
        .get_template("run.html.j2")
        .render(
            title=history.folder.resolve().name,
            figures=figures,
            state=summary.STATE_WORDS[figures.state],
            verdict=summary.verdict(figures, now=now),
            facts=summary.facts(figures),
            notes=summary.notes(figures, missing_songs=songs.missing, unreadable=history.unreadable),
            learning=learning_curves(history, figures, told),
            machine=machine_curves(history, told),
            steps_per_epoch=steps_per_epoch(history),
            looks=looks[-MAX_LOOKS:],
            looks_left_out=max(0, len(looks) - MAX_LOOKS),
            tracks=_ends(tracks, MAX_TRACKS),
            tracks_left_out=max(0, len(tracks) - MAX_TRACKS),
            events=events[-MAX_EVENTS:],
            events_left_out=max(0, len(events) - MAX_EVENTS),
            songs=songs,
            config_text=history.config_text,
            refresh_s=refresh_s if not figures.is_over else None,
            written=now,
            version=version("acesteps"),
            number=plain_number,
        )
    )


def _ends(items: list[TrackChange], count: int) -> list[TrackChange]:
    """The first and the last of a sorted list."""
    return items if len(items) <= count else items[: count // 2] + items[-(count // 2) :]
