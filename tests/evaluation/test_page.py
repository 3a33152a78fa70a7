from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from acestep.evaluation.advice import Advice, advise
from acestep.evaluation.curves import TrainingCurves
from acestep.evaluation.evaluation import Evaluation, evaluate_lora
from acestep.evaluation.page import render_page, song_recipe, write_page
from acestep.evaluation.prompts import Prompt
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.test_evaluation import BRIGHT

HOSTILE = '<script>alert("x")</script>\' onload=y & <img src=x onerror=z>'
CURVES = TrainingCurves(training=((1, 2.0), (2, 1.0)), validation=((0, 2.0), (2, 1.5)))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    folder = tmp_path_factory.mktemp("page")
    prompts = [Prompt(prompt=HOSTILE, lyrics=HOSTILE), Prompt(prompt="plain"), Prompt(prompt="another one")]
    pipeline = BrightnessPipeline(4.0)
    return folder, evaluate_lora(
        pipeline, f"loras/{HOSTILE}", prompts, folder=folder, seeds=(1,), duration_s=5.0, held_out=BRIGHT, steps=3
    )


class Elements(HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_nothing_from_outside_becomes_markup(evaluated: tuple[Path, Evaluation]) -> None:
    _, evaluation = evaluated
    page = Elements(render_page(evaluation, title=HOSTILE, advice=[Advice(HOSTILE, HOSTILE)], notes=[HOSTILE]))
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.tags if {"onload", "onerror"} & attributes.keys()]
    assert page.text.count('alert("x")') >= 4


def test_everything_it_shows_lies_beside_it(evaluated: tuple[Path, Evaluation]) -> None:
    folder, evaluation = evaluated
    path = write_page(folder, evaluation, title="t", advice=[], curves=CURVES)
    page = Elements(path.read_text(encoding="utf-8"))
    sources = [tag["src"] for name in ("audio", "img") for tag in page.all(name)]
    assert len(sources) == 12
    assert all(source and (folder / source).is_file() for source in sources)
    assert not re.findall(r"https?://|//cdn", path.read_text(encoding="utf-8"))


def test_no_audio_is_loaded_before_it_is_played(evaluated: tuple[Path, Evaluation]) -> None:
    page = Elements(render_page(evaluated[1], title="t", advice=[]))
    assert {tag["preload"] for tag in page.all("audio")} == {"none"}
    assert {tag["loading"] for tag in page.all("img")} == {"lazy"}


def test_every_control_and_picture_has_a_name(evaluated: tuple[Path, Evaluation]) -> None:
    page = Elements(render_page(evaluated[1], title="t", advice=[], curves=CURVES))
    assert all(tag.get("aria-label") for tag in page.all("audio"))
    assert all(tag.get("alt") for tag in page.all("img"))
    assert all(tag.get("aria-label") or tag.get("aria-hidden") for tag in page.all("svg"))
    assert all(tag.get("aria-label") for tag in page.all("input") if tag["type"] == "range")
    identities = [tag["id"] for _, tag in page.tags if tag.get("id")]
    assert len(identities) == len(set(identities))
    named = {tag["aria-labelledby"] for _, tag in page.tags if tag.get("aria-labelledby")}
    assert named <= set(identities)


def test_each_songs_recipe_is_a_command_that_would_make_it_again(evaluated: tuple[Path, Evaluation]) -> None:
    _, evaluation = evaluated
    base, adapted = (shlex.split(song_recipe(take)) for take in evaluation.comparisons[0].takes)
    assert base[base.index("--prompt") + 1] == HOSTILE
    assert base[base.index("--steps") + 1] == "3"
    assert "--lora" not in base
    assert adapted[adapted.index("--lora") + 1] == "lora:1"


def test_figures_stand_in_the_page_with_their_uncertainty(evaluated: tuple[Path, Evaluation]) -> None:
    _, evaluation = evaluated
    text = Elements(render_page(evaluation, title="t", advice=[])).text
    figure = evaluation.figure("distance_to_style")
    assert figure is not None
    for value in (figure.base, figure.adapted, abs(figure.change.low), abs(figure.change.high)):
        assert (f"{value:.3f}" if value < 10 else f"{value:.1f}") in text
    assert "held-out loss: it needs recordings" in text


def test_a_page_that_cannot_be_finished_leaves_nothing(
    evaluated: tuple[Path, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KeyboardInterrupt):
        write_page(tmp_path, evaluated[1], title="t", advice=[])
    assert not list(tmp_path.iterdir())


def test_advice_follows_the_figures_and_the_curves(evaluated: tuple[Path, Evaluation]) -> None:
    _, evaluation = evaluated
    falling = TrainingCurves((), tuple((step, 2.0 - 0.1 * step) for step in range(8)))
    risen = TrainingCurves((), ((0, 2.0), (1, 1.0), (2, 1.2), (3, 1.4)))
    assert any("still falling" in item.text for item in advise(evaluation, falling))
    assert any("rose again" in item.text for item in advise(evaluation, risen))
    assert any("7 tracks are few" in item.text for item in advise(evaluation, tracks=7))
    assert any(item.command.startswith("acestep generate") for item in advise(evaluation))
