from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.evaluation.merge_page import render_merge_page, verdict, write_merge_page
from acestep.lora import write_adapter
from acestep.lora.merge import MergeReport, merge_loras
from small_adapter import nano_adapter


@pytest.fixture
def report(tmp_path: Path) -> MergeReport:
    loras = [(write_adapter(tmp_path / name, nano_adapter(seed=i)), 0.5) for i, name in enumerate(("one", "other"))]
    return merge_loras(loras, tmp_path / "merged", rank=2, measure=True)


def test_the_verdict_says_what_is_left_and_what_the_rank_cost(report: MergeReport):
    said = verdict(report)
    assert f"one {report.kept[0]:.0%}, other {report.kept[1]:.0%}" in said
    assert f"Rank 2 loses {report.energy_lost:.1%}" in said


def test_every_module_and_group_is_on_the_page(report: MergeReport):
    page = render_merge_page(report)
    for module in report.modules:
        assert module.module in page
    for group in ("self attention (1)", "cross attention (1)", "feed forward (1)", "other (1)"):
        assert group in page


def test_lines_go_from_the_first_module_to_the_last(report: MergeReport):
    assert report.interference is not None
    # As in a file, whose order is another than the base's.
    pair = replace(report.interference.pairs[0], modules=report.interference.pairs[0].modules[::-1])
    turned = replace(report, interference=replace(report.interference, pairs=(pair,)))
    assert render_merge_page(turned).count("<polyline") > 0
    assert render_merge_page(turned) == render_merge_page(report)


def test_a_merge_without_measures_has_a_page_too(tmp_path: Path):
    loras = [(write_adapter(tmp_path / name, nano_adapter(seed=i)), 0.5) for i, name in enumerate(("one", "other"))]
    page = render_merge_page(merge_loras(loras, tmp_path / "merged"))
    assert "Where they meet" not in page
    assert "Where the rank costs most" not in page


def test_a_place_that_cannot_be_written_is_told(report: MergeReport, tmp_path: Path):
    with pytest.raises(InputError, match="is a folder"):
        write_merge_page(report, tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_merge_page(report, tmp_path / "one" / "README.md" / "report.html")


def test_lines_of_two_loras_are_told_apart_by_the_ends_of_the_scale(report: MergeReport):
    page = render_merge_page(report)
    assert "line--level-0" in page
    assert "line--level-7" in page
    assert "line--level-1" not in page.split("</style>")[1]
