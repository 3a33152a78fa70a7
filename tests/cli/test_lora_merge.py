from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from acestep.cli import lora_merge
from acestep.evaluation.evaluation import HeldOut
from acestep.evaluation.merge_search import SearchResult, SourceLoss
from acestep.lora import Adapter, read_adapter, write_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.lineage import lineage
from acestep.lora.merge import METHODS
from small_adapter import nano_adapter

app = typer.Typer()
for command in (lora_merge.merge, lora_merge.methods, lora_merge.lineage, lora_merge.bake, lora_merge.extract):
    app.command()(command)


def lora(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def lora_json(*arguments: object) -> Any:
    status, out, problems = lora(*arguments, "--json")
    assert status == 0, problems
    return json.loads(out)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "vocal", nano_adapter(seed=1))
    write_adapter(tmp_path / "take:2", nano_adapter(seed=2))
    return tmp_path


def test_merge_reads_weights_behind_colons_and_paths_that_have_them(here: Path):
    told = lora_json("merge", "vocal:0.7", "take:2:0.3", "-o", "merged")
    assert [(source["name"], source["weight"]) for source in told["sources"]] == [("vocal", 0.7), ("take:2", 0.3)]
    assert (told["strategy"], told["rank"], told["energy_lost"]) == ("weighted_average", 10, 0)
    assert told["interference"]["pairs"]
    whole = lora_json("merge", "take:2", "vocal:-0.5", "-o", "other", "--strategy", "task_arithmetic")
    assert [source["weight"] for source in whole["sources"]] == [1.0, -0.5]


def test_merge_tells_people_what_is_left_of_each(here: Path):
    status, text, _ = lora("merge", "vocal:0.7", "take:2:0.3", "-o", "merged", "--rank", "3")
    assert status == 0
    for said in ("4 modules at rank 3", "vocal", "take:2", "of the energy lost"):
        assert said in text


def test_methods_options_groups_and_dtypes_are_given_on_the_command_line(here: Path):
    told = lora_json(
        "merge", "vocal:0.7", "take:2:0.3", "-o", "merged", "--strategy", "della", "--option", "density=0.6",
        "--option", "window=0.1", "--group", "cross_attention=1,0", "--rank", "auto", "--dtype", "bfloat16",
        "--seed", "4",
    )  # fmt: skip
    assert told["options"]["density"] == 0.6
    assert told["options"]["group_weights"] == {"cross_attention": [1, 0]}
    assert (told["options"]["seed"], told["dtype"]) == (4, "bfloat16")


def test_the_page_is_one_file_and_says_what_the_report_says(here: Path):
    told = lora_json("merge", "vocal:0.7", "take:2:0.3", "-o", "merged", "--rank", "3", "--report", "pages/report.html")
    page = (here / "pages" / "report.html").read_text(encoding="utf-8")
    assert told["report"] == "pages/report.html"
    assert page.count("<svg") == 3
    assert "src=" not in page.replace("&quot;", "")
    assert "http" not in page
    for said in ("vocal", "take:2", "weighted_average", "Where they meet", "Where the rank costs most"):
        assert said in page


def test_names_from_outside_are_escaped_in_the_page(here: Path):
    write_adapter(here / "<b>loud", nano_adapter(seed=3))
    lora_json("merge", "vocal:0.7", "<b>loud:0.3", "-o", "merged", "--report", "report.html")
    page = (here / "report.html").read_text(encoding="utf-8")
    assert "<b>loud" not in page
    assert "&lt;b&gt;loud" in page


def test_the_tree_of_a_merge_of_merges_is_drawn(here: Path):
    lora_json("merge", "vocal:0.7", "take:2:0.3", "-o", "both", "--strategy", "ties", "--rank", "4")
    lora_json("merge", "both:1", "vocal:-0.2", "-o", "again", "--strategy", "task_arithmetic")
    status, text, _ = lora("lineage", "again")
    assert status == 0
    for said in ("again", "task_arithmetic", "1 x both", "ties", "density 0.2", "0.7 x vocal", "-0.2 x vocal"):
        assert said in text
    assert lora_json("lineage", "again") == lineage(here / "again").model_dump(mode="json")


def test_bake_and_extract_go_round(here: Path):
    told = lora_json("bake", "nano", "vocal:0.5", "take:2:1", "-o", "baked", "--dtype", "float32")
    assert told["modules"] == 4
    found = lora_json("extract", "baked", "nano", "-o", "out", "--rank", "16")
    assert found["energy_lost"] < 1e-6
    expected = lora_json("merge", "vocal:0.5", "take:2:1", "-o", "sum", "--strategy", "task_arithmetic")
    assert [module["norm"] for module in found["modules"]] == pytest.approx(
        [module["norm"] for module in sorted_as(expected, found)], rel=1e-4
    )
    status, text, _ = lora("extract", "baked", "nano", "-o", "less", "--rank", "2")
    assert status == 0
    assert "of the difference's energy is not in it" in text


def sorted_as(one: Any, other: Any) -> list[Any]:
    by_name = {module["module"]: module for module in one["modules"]}
    return [by_name[module["module"]] for module in other["modules"]]


def test_all_methods_are_told(here: Path):
    status, text, _ = lora("methods")
    assert status == 0
    assert all(name in text for name in METHODS)
    assert {method["name"] for method in lora_json("methods")["methods"]} == set(METHODS)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("vocal:0.7", "take:2:0.3", "--strategy", "mean"), 1, "choose one of weighted_average"),
        (("vocal:0.5", "take:2:-0.5"), 1, "sum to zero"),
        (("vocal:nan", "take:2:0.5"), 2, "nan"),
        (("vocal:0.7", "take:2:0.3", "--rank", "many"), 2, "no rank"),
        (("vocal:0.7", "take:2:0.3", "--rank", "0"), 2, "no rank"),
        (("vocal:0.7", "take:2:0.3", "--option", "density"), 2, "NAME=NUMBER"),
        (("vocal:0.7", "take:2:0.3", "--option", "rank=3"), 2, "no option of a method"),
        (("vocal:0.7", "take:2:0.3", "--group", "cross_attention=a"), 2, "GROUP=WEIGHT"),
        (("vocal:0.7", "nowhere:0.3"), 1, "nowhere"),
        (("vocal:1@0-3s", "take:2:0.3"), 2, "changes with time"),
    ],
)
def test_what_cannot_be_is_refused_in_words(here: Path, arguments: tuple[str, ...], status: int, said: str):
    found, _, problems = lora("merge", *arguments, "-o", "merged")
    assert found == status
    assert said in problems
    assert not (here / "merged").exists()


def test_an_existing_folder_asks_for_force(here: Path):
    lora_json("merge", "vocal:0.7", "take:2:0.3", "-o", "merged")
    status, _, problems = lora("merge", "vocal:0.7", "take:2:0.3", "-o", "merged")
    assert status == 1
    assert "--force" in problems
    lora_json("merge", "vocal:0.7", "take:2:0.3", "-o", "merged", "--rank", "2", "--force")
    assert read_adapter(here / "merged", base_shapes("nano")).rank == 2


def test_adapters_with_nothing_in_common_make_a_page_too(here: Path):
    made = nano_adapter()
    names = list(made.factors)
    write_adapter(here / "first", Adapter({name: made.factors[name] for name in names[:2]}))
    write_adapter(here / "second", Adapter({name: made.factors[name] for name in names[2:]}))
    lora_json("merge", "first:0.5", "second:0.5", "-o", "merged", "--report", "report.html")
    assert "Where they meet" not in (here / "report.html").read_text(encoding="utf-8")


def test_weights_can_be_searched(here: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def search(family: Any, sources: Any, *, sum_to_one: bool, progress: Any) -> SearchResult:
        asked.append(([source.name for source in sources], [source.clips for source in sources], sum_to_one))
        lost = (SourceLoss("vocal", 1.0, 0.8, 0.84), SourceLoss("take:2", 1.0, 0.5, 0.5))
        return SearchResult((0.8, 0.2), lost, (((0.8, 0.2), 0.025),))

    monkeypatch.setattr("acestep.evaluation.merge_search.search_weights", search)
    monkeypatch.setattr("acestep.evaluation.recordings.read_held_out", lambda _, folder: HeldOut(clips=(folder,)))  # type: ignore[arg-type]
    told = lora_json("merge", "vocal", "take:2", "-o", "merged", "--search", "songs", "--search", "drums")
    assert asked == [(["vocal", "take:2"], [(Path("songs"),), (Path("drums"),)], True)]
    assert [source["weight"] for source in told["sources"]] == [0.8, 0.2]
    assert told["search"]["sources"][0]["lost"] == pytest.approx(0.05)
    for arguments, said in (
        (("--search", "songs"), "one a LoRA"),
        (("--search", "songs", "--search", "drums", "--strategy", "ties"), "without --group"),
    ):
        status, _, problems = lora("merge", "vocal", "take:2", "-o", "other", *arguments)
        assert status == 2
        assert said in problems
