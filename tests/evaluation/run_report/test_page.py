from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from acestep.errors import InputError
from acestep.evaluation.run_report import run_figures, write_run_page
from acestep.evaluation.run_report.songs import MAX_ROUNDS
from acestep.training.history import read_history
from evaluation.run_report.runs import write_run
from evaluation.test_page import Elements
from training.test_history import record, step_result


def page_of(folder: Path, out: Path | None = None, **options: float) -> Elements:
    history = read_history(folder)
    path = write_run_page(history, run_figures(history), out, **options)
    return Elements(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "my run").path


@pytest.fixture(scope="module")
def page(folder: Path) -> Elements:
    return page_of(folder)


def test_nothing_from_outside_becomes_markup(page: Elements) -> None:
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.tags if {"onload", "onerror"} & attributes.keys()]
    # Warning, prompt, lyrics, track, diagnosis and config.
    assert page.text.count('alert("x")') >= 6


def test_all_is_inside_but_the_songs_which_lie_where_the_links_say(folder: Path, page: Elements) -> None:
    songs = [tag["src"] or "" for tag in page.all("audio")]
    assert len(songs) == 10
    assert all((folder / unquote(song)).is_file() for song in songs)
    assert all((tag["src"] or "").startswith("data:image/png;base64,") for tag in page.all("img"))
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://|//cdn|<link", text)
    assert {tag["preload"] for tag in page.all("audio")} == {"none"}


def test_a_page_elsewhere_links_back_to_the_songs(folder: Path, tmp_path: Path) -> None:
    page = page_of(folder, tmp_path / "deep" / "page.html")
    songs = [tag["src"] or "" for tag in page.all("audio")]
    assert all(song.startswith("..") for song in songs)
    assert all((tmp_path / "deep" / unquote(song)).resolve().is_file() for song in songs)


def test_pictures_are_small_pictures_of_their_songs(page: Elements) -> None:
    pictures = [(tag["src"] or "").partition(",")[2] for tag in page.all("img")]
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert max(map(len, pictures)) < 40_000
    # The base's song is the same in each row's first column, others differ from epoch to epoch.
    assert len(set(pictures)) == 10


def test_every_figure_of_the_record_has_its_curve(page: Elements) -> None:
    titles = [json.loads(tag["data-values"] or "") for tag in page.all("div") if "data-values" in tag]
    drawn = [[line["label"] for line in values["lines"]] for values in titles]
    assert len(drawn) == 9
    assert drawn[0] == ["each step", "running mean", "running mean at average noise levels"]
    assert drawn[1] == ["held-out loss ± standard error", "the base"]
    assert drawn[3] == ["sigma 0.2", "sigma 0.5", "sigma 0.9"]
    held_out = titles[1]["lines"][0]
    assert held_out["x"] == [0, 10, 20, 30, 40]
    assert titles[0]["marks"][-1] == [40, "step 40: Finished"]
    assert {values["from"][1] for values in titles} == {40}


def test_every_control_and_picture_has_a_name(page: Elements) -> None:
    assert all(tag.get("aria-label") for tag in page.all("audio"))
    assert all(tag.get("alt") for tag in page.all("img"))
    assert all(tag.get("aria-label") or tag.get("aria-hidden") for tag in page.all("svg"))
    identities = [tag["id"] for _, tag in page.tags if tag.get("id")]
    assert len(identities) == len(set(identities))
    named = {tag["aria-labelledby"] for _, tag in page.tags if tag.get("aria-labelledby")}
    assert named <= set(identities)


def test_a_running_run_says_so_and_reloads_only_where_it_is_watched(tmp_path: Path) -> None:
    write_run(tmp_path / "run", songs=False, ended=False)
    once = page_of(tmp_path / "run")
    assert "Running" in once.text
    assert "--watch" in once.text
    assert "data-refresh-s" not in once.all("html")[0]
    assert page_of(tmp_path / "run", refresh_s=30.0).all("html")[0]["data-refresh-s"] == "30"


def test_songs_that_are_gone_or_broken_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run").path
    songs = sorted((folder / "samples" / "epoch-0002").iterdir())
    songs[0].unlink()
    songs[1].write_bytes(b"RIFF")
    page = page_of(folder)
    assert len(page.all("audio")) == 8
    assert "2 recorded songs cannot be read" in page.text


def test_of_many_rounds_some_are_shown_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run").path
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(next(line for line in reversed(lines) if '"samples"' in line))
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for epoch in range(5, 31):
            file.write(json.dumps({**last, "step": 10 * epoch, "epoch": epoch}) + "\n")
    page = page_of(folder)
    assert len(page.all("audio")) == 2 * (1 + MAX_ROUNDS)
    assert "Epoch 1" in page.text
    assert "Epoch 30" in page.text
    assert f"{30 - MAX_ROUNDS} rounds" in page.text


@pytest.mark.parametrize(
    "lines",
    [
        '{"step": 1, "loss": 0.5}\n',
        '{"step": 0, "val_loss": 0.5}\n',
        '{"step": 5, "loss": 0.5}\n{"step": 5, "val_loss": 0}\n{"step": 6, "val_loss": -1, "by_track": {"a": 0}}\n',
        '{"step": 1, "loss": NaN, "grad_norm": 0, "seconds": 0}\n{"step": 2, "loss": Infinity}\n',
        '{"step": 1, "loss": 1, "samples": 3}\n{"step": 1, "samples": [{}, 7, {"path": "/"}]}\n',
    ],
)
def test_a_poor_record_still_makes_a_page(tmp_path: Path, lines: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "events.jsonl").write_text('{"event": ""}\n{"event": "diagnosis", "step": "x", "time": 3}\n')
    assert "a training run" in page_of(tmp_path).text


def test_a_long_run_makes_a_short_page(tmp_path: Path) -> None:
    record(tmp_path, *[step_result(step, epoch=1 + step // 100) for step in range(1, 8001)])
    page_of(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 300_000


def test_a_folder_is_not_overwritten_by_a_page(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        page_of(folder, tmp_path)
