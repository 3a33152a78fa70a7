"""The samples of a run as rows of players: one a prompt and seed, its songs by the base and after each epoch shown."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from acestep.audio.files import read_audio
from acestep.audio.spectrogram import mel_picture
from acestep.errors import AudioError
from acestep.training.history import RunHistory
from acestep.training.results import Sample, SamplesResult

logger = logging.getLogger(__name__)

MAX_ROUNDS = 8
RATE = 44100
PICTURE = (320, 72)
# Pictures are inside the page, so that it can lie where nothing may be written beside it; 64 colours are 12 KB each.
PICTURE_COLOURS = 64


@dataclass(frozen=True)
class Song:
    """A file to play. link: relative to the page; picture: a data URI."""

    label: str
    is_base: bool
    link: str
    picture: str
    duration_s: float


@dataclass(frozen=True)
class SongRow:
    prompt: str
    lyrics: str
    seed: int
    songs: tuple[Song, ...]


@dataclass(frozen=True)
class SongTable:
    """left_out: rounds that the page does not show; missing: files that were recorded and cannot be read."""

    rows: tuple[SongRow, ...]
    left_out: int
    missing: int


def song_table(history: RunHistory, page_folder: Path) -> SongTable:
    """Players for at most MAX_ROUNDS rounds of samples, first and last among them, for a page in `page_folder`."""
    rounds = _chosen(history.samples)
    identities = dict.fromkeys((one.prompt, one.lyrics, one.seed) for result in rounds for one in result.samples)
    rows, missing = [], 0
    for prompt, lyrics, seed in identities:
        songs, lost = _row_songs(rounds, (prompt, lyrics, seed), page_folder)
        missing += lost
        if songs:
            rows.append(SongRow(prompt, lyrics, seed, tuple(songs)))
    return SongTable(tuple(rows), len(history.samples) - len(rounds), missing)


def _chosen(rounds: Sequence[SamplesResult]) -> list[SamplesResult]:
    if len(rounds) <= MAX_ROUNDS:
        return list(rounds)
    return [rounds[round(place * (len(rounds) - 1) / (MAX_ROUNDS - 1))] for place in range(MAX_ROUNDS)]


def _row_songs(
    rounds: Sequence[SamplesResult], identity: tuple[str, str, int], page_folder: Path
) -> tuple[list[Song], int]:
    """The songs of one prompt and seed that can be read, the base's own first, and how many cannot."""
    found: list[tuple[SamplesResult, Sample]] = [
        (result, one) for result in rounds for one in result.samples if (one.prompt, one.lyrics, one.seed) == identity
    ]
    wanted = [("Base", found[0][1].base_path)]
    wanted += [(f"Epoch {result.epoch}", one.path) for result, one in found]
    songs = [_song(label, path, page_folder) for label, path in wanted]
    return [song for song in songs if song is not None], songs.count(None)


def _song(label: str, path: Path, page_folder: Path) -> Song | None:
    try:
        stamp = path.stat().st_mtime_ns
        picture, duration_s = _pictured(path, stamp)
    except (OSError, AudioError) as error:
        logger.info("%s is left out of the page: %s", path, error)
        return None
    link = quote(Path(os.path.relpath(path.resolve(), page_folder.resolve())).as_posix())
    return Song(label, label == "Base", link, picture, duration_s)


@lru_cache(maxsize=1024)
def _pictured(path: Path, stamp: int) -> tuple[str, float]:
    """A file's spectrogram and length; kept, because a page that follows a run is made again and again."""
    audio = read_audio(path, sample_rate=RATE)
    picture = Image.open(io.BytesIO(mel_picture(audio, RATE, width=PICTURE[0], height=PICTURE[1])))
    buffer = io.BytesIO()
    picture.quantize(PICTURE_COLOURS).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", audio.shape[-1] / RATE
