from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.evaluation.advice import advise
from acestep.evaluation.embedding import embed_windows
from acestep.evaluation.evaluation import Evaluation, HeldOut, Listener, evaluate_lora, verdict
from acestep.evaluation.findings import Finding
from acestep.evaluation.page import write_page
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.report_card import report_card, save_card
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.pipeline import GenerationResult
from evaluation.fake_pipeline import BASE_SLOPE_DB, BrightnessPipeline
from evaluation.songs import RATE, coloured_noise

PROMPTS = [Prompt(prompt="a" * length) for length in (1, 2, 3)]
BRIGHT = HeldOut(
    windows=[embed_windows(coloured_noise(BASE_SLOPE_DB + 6, seed=90 + n, seconds=5), RATE) for n in range(5)]
)


Run = Callable[[float], Evaluation]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Evaluations by the slope that the LoRA adds, each made once."""
    return cache(lambda slope_db: run(tmp_path_factory.mktemp("evaluation"), slope_db))


def run(folder: Path, slope_db: float, held_out: HeldOut | None = BRIGHT) -> Evaluation:
    pipeline = BrightnessPipeline(slope_db)
    return evaluate_lora(pipeline, "my_lora", PROMPTS, folder=folder, seeds=(1,), duration_s=5.0, held_out=held_out)


def test_a_lora_that_does_nothing_is_said_to_do_nothing(evaluated: Run) -> None:
    evaluation = evaluated(0.0)
    assert evaluation.changes_nothing
    for figure in evaluation.figures:
        if figure.key == "distance_to_style":
            assert figure.change.value == 0
        assert figure.verdict == "no difference measured"
    assert "no measurable effect" in verdict(evaluation)


def test_a_lora_that_brightens_moves_songs_towards_bright_recordings(evaluated: Run) -> None:
    evaluation = evaluated(6.0)
    assert [figure.verdict for figure in evaluation.figures] == ["nearer to the style"] * 2
    distance = evaluation.figure("distance_to_style")
    assert distance is not None
    assert distance.share_of_gap is not None
    assert distance.share_of_gap == pytest.approx(1.0, abs=0.25)
    assert "towards the style" in verdict(evaluation)


def test_a_lora_that_darkens_moves_them_away(evaluated: Run) -> None:
    evaluation = evaluated(-5.0)
    assert [figure.verdict for figure in evaluation.figures] == ["further from the style"] * 2
    assert "away from the style" in verdict(evaluation)


def test_without_recordings_what_needs_them_is_left_out_and_named(tmp_path: Path) -> None:
    evaluation = run(tmp_path, 5.0, held_out=None)
    assert evaluation.figures == ()
    assert [measure for measure, _ in evaluation.left_out] == ["held-out loss", "style distance"]
    assert evaluation.moved > 0.1
    assert "needs recordings" in verdict(evaluation)


def test_the_same_evaluation_twice_writes_the_same_json(evaluated: Run, tmp_path: Path) -> None:
    first, second = (save_card(made, tmp_path).read_text() for made in (evaluated(6.0), run(tmp_path, 6.0)))
    assert first == second
    assert json.loads(first)["schema"] == "acestep-evaluation-2"


def test_the_pipeline_is_given_back_as_it_came(tmp_path: Path) -> None:
    pipeline = BrightnessPipeline(1.0)
    evaluate_lora(pipeline, "my_lora", PROMPTS[:1], folder=tmp_path, seeds=(1,), duration_s=5.0)
    assert pipeline.loras == {}


def test_a_pipeline_that_has_loras_already_is_no_base(tmp_path: Path) -> None:
    pipeline = BrightnessPipeline(1.0)
    pipeline.load_lora("another")
    with pytest.raises(InputError, match="unload"):
        evaluate_lora(pipeline, "my_lora", PROMPTS, folder=tmp_path)


@pytest.mark.parametrize("arguments", [{"prompts": []}, {"seeds": ()}, {"weight": 0.0}])
def test_an_evaluation_of_nothing_is_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    given = {"prompts": PROMPTS, "folder": tmp_path, **arguments}
    with pytest.raises(InputError, match="at least one prompt"):
        evaluate_lora(BrightnessPipeline(1.0), "my_lora", **given)


def test_every_strength_is_measured_and_the_least_sufficient_one_recommended(tmp_path: Path) -> None:
    evaluation = evaluate_lora(
        BrightnessPipeline(6.0), "my_lora", PROMPTS, folder=tmp_path, strengths=(0, 2.0, 0.5, 1.0), seeds=(1,),
        duration_s=5.0, held_out=BRIGHT,
    )  # fmt: skip
    assert evaluation.strengths == (0.5, 1.0, 2.0)
    assert evaluation.weight == 1.0
    assert [take.strength for take in evaluation.comparisons[0].takes] == [0, 0.5, 1.0, 2.0]
    distances = [point.figure("distance_to_style") for point in evaluation.curve.points]
    # The recordings are as bright as the LoRA makes songs at 1; at 2 it overshoots.
    assert min(distances, key=lambda figure: figure.adapted) is distances[1]
    assert evaluation.curve.recommended == 1.0
    assert evaluation.curve.points[-1].harms == ("songs overshoot the style",)


def test_songs_of_nan_are_named_and_never_recommended(tmp_path: Path) -> None:
    evaluation = evaluate_lora(
        BrightnessPipeline(6.0, broken_at=1.0), "my_lora", PROMPTS, folder=tmp_path, strengths=(0.5, 1.0), seeds=(1,),
        duration_s=5.0, held_out=BRIGHT,
    )  # fmt: skip
    whole, broken = evaluation.curve.points
    assert whole.harms == ()
    assert broken.harms == ("3 songs broken",)
    assert evaluation.curve.recommended == 0.5
    assert ("all measures on songs", "at strength 1 every pair of songs holds NaN or infinity") in evaluation.left_out
    assert "NaN" in verdict(evaluation)
    assert [take.flaws for take in report_card(evaluation).songs[0].takes] == [[], [], ["broken"]]
    write_page(tmp_path, evaluation, title="t", advice=advise(evaluation))
    assert "The model gave NaN" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_base_of_nan_is_told_from_a_lora_of_nan(tmp_path: Path) -> None:
    pipeline = BrightnessPipeline(6.0, broken_at=0.0)
    evaluation = evaluate_lora(pipeline, "my_lora", PROMPTS[:2], folder=tmp_path, seeds=(1,), duration_s=5.0)
    assert not evaluation.changes_nothing
    assert evaluation.main.harms == ()
    assert "hold NaN" in verdict(evaluation)


@pytest.mark.parametrize("strength", [11.0, float("nan"), -10.5])
def test_a_strength_that_cannot_be_meant_is_refused(tmp_path: Path, strength: float) -> None:
    with pytest.raises(InputError, match="a strength is"):
        evaluate_lora(BrightnessPipeline(1.0), "my_lora", PROMPTS, folder=tmp_path, strengths=(0, strength))


class Counting(Listener):
    """Hears how long songs are, and harms at 1."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, float, int]] = []

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        self.heard.append((comparison.prompt.prompt, comparison.seed, take.strength, song.audio.shape[-1]))

    def finish(self, *_: object) -> list[Finding | tuple[str, str]]:
        return [Finding("count", "Songs heard", f"{len(self.heard)} songs", alarm=True), ("colour", "it has none")]

    def damage(self, strength: float) -> list[str]:
        return ["it is loud"] if strength == 1 else []


def test_a_listener_hears_every_song_and_what_it_finds_is_told_everywhere(tmp_path: Path) -> None:
    listener = Counting()
    evaluation = evaluate_lora(
        BrightnessPipeline(6.0), "my_lora", PROMPTS[:2], folder=tmp_path, strengths=(0.5, 1.0), seeds=(1,),
        duration_s=5.0, listeners=[listener],
    )  # fmt: skip
    assert listener.heard == [(p.prompt, 1, s, 5 * RATE) for p in PROMPTS[:2] for s in (0.0, 0.5, 1.0)]
    assert [point.harms for point in evaluation.curve.points] == [(), ("it is loud",)]
    assert report_card(evaluation).findings[0].says == "6 songs"
    assert ("colour", "it has none") in evaluation.left_out
    write_page(tmp_path, evaluation, title="t", advice=[])
    assert 'role="alert"' in (tmp_path / "report.html").read_text(encoding="utf-8")
