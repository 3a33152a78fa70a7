"""A merge as a page: what is left of each LoRA, where they get in each other's way, and what the rank cost.

One file that opens from the file system; everything from outside (names, modules) is escaped by the template.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from acestep.errors import InputError
from acestep.evaluation.charts import Chart, Series, line_chart
from acestep.evaluation.page_templates import page_environment, plain_number
from acestep.evaluation.whole_file import write_text_whole
from acestep.lora.merge import GROUPS, MergeReport
from acestep.lora.merge.groups import group_of

MAX_LISTED = 20
"""Modules in the table of what the rank cost most."""


@dataclass(frozen=True)
class SourceRow:
    """One LoRA of the merge, in the page's table."""

    name: str
    weight: float
    kept: float
    norm: float | None
    matched: float | None
    """The weight that its norm suggests: that all are equally loud."""


@dataclass(frozen=True)
class PairRow:
    """Two LoRAs in one group of modules."""

    first: str
    second: str
    group: str
    modules: int
    cosine: float
    sign_conflict: float
    overlap_outputs: float
    overlap_inputs: float
    norm_ratio: float


def write_merge_page(report: MergeReport, path: Path) -> Path:
    """Write the page whole or not at all -> its path. InputError where it cannot be written."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file, such as {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text_whole(path, render_merge_page(report))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); give another place") from error


def render_merge_page(report: MergeReport) -> str:
    """The page's HTML."""
    costly = sorted(report.modules, key=lambda module: -module.energy_lost)[:MAX_LISTED]
    return (
        page_environment()
        .get_template("merge.html.j2")
        .render(
            title=report.path.resolve().name,
            verdict=verdict(report),
            facts=_facts(report),
            warnings=report.warnings,
            sources=_sources(report),
            pairs=_pairs(report),
            charts=[chart for chart in _charts(report) if chart is not None],
            costly=[module for module in costly if module.energy_lost > 0],
            names=[parent.name for parent in report.sources],
            version=version("acesteps"),
            number=plain_number,
        )
    )


def verdict(report: MergeReport) -> str:
    """The merge in a sentence or two."""
    parts = [f"{parent.name} {kept:.0%}" for parent, kept in zip(report.sources, report.kept, strict=True)]
    said = f"What is left of each, as it was trained: {', '.join(parts)}."
    if report.energy_lost >= 0.005:
        said += f" Rank {report.rank} loses {report.energy_lost:.1%} of the merge's energy."
    return said


def _facts(report: MergeReport) -> list[tuple[str, str]]:
    options = [f"{name} {value}" for name, value in report.options.items() if value is not None]
    return [
        ("Method", report.strategy),
        ("Options", ", ".join(options) or "none"),
        ("Base", report.base or "unknown"),
        ("Modules", str(len(report.modules))),
        ("Rank", str(report.rank)),
        ("Stored as", str(report.dtype).removeprefix("torch.")),
        ("Energy lost by the rank", f"{report.energy_lost:.3%}"),
    ]


def _sources(report: MergeReport) -> list[SourceRow]:
    found = report.interference
    rows = []
    for index, (parent, kept) in enumerate(zip(report.sources, report.kept, strict=True)):
        norm, matched = (None, None) if found is None else (found.norms[index], found.matched[index] * parent.weight)
        rows.append(SourceRow(parent.name, parent.weight, kept, norm, matched))
    return rows


def _pairs(report: MergeReport) -> list[PairRow]:
    """Every pair by group of modules: means over its modules."""
    rows = []
    for pair in report.interference.pairs if report.interference else ():
        by_group = defaultdict(list)
        for module in pair.modules:
            by_group[group_of(module.module)].append(module)
        for group in (*GROUPS, None):
            if found := by_group.get(group):
                columns = [
                    sum(getattr(module, name) for module in found) / len(found)
                    for name in ("cosine", "sign_conflict", "overlap_outputs", "overlap_inputs", "norm_ratio")
                ]
                rows.append(PairRow(pair.first, pair.second, group or "other", len(found), *columns))
    return rows


def _charts(report: MergeReport) -> list[Chart | None]:
    kept = [
        Series(
            parent.name,
            [(place, kept) for place, module in enumerate(report.modules) if (kept := module.kept[index]) is not None],
            _colour(index, len(report.sources)),
        )
        for index, parent in enumerate(report.sources)
    ]
    pairs = report.interference.pairs if report.interference else ()
    order = {module.module: place for place, module in enumerate(report.modules)}
    cosines = [
        Series(
            f"{pair.first} and {pair.second}",
            sorted((order[module.module], module.cosine) for module in pair.modules if module.module in order),
            _colour(index, len(pairs)),
        )
        for index, pair in enumerate(pairs)
    ]
    lost = Series("lost", [(place, 100 * module.energy_lost) for place, module in enumerate(report.modules)], "adapted")
    places = "modules, in the base's order"
    return [
        line_chart(kept, title="How much of each is left", x_label=places, y_label="share of it, 1 as trained"),
        line_chart(cosines, title="How alike the changes are", x_label=places, y_label="cosine, 0 is unrelated"),
        line_chart([lost], title="What the rank costs", x_label=places, y_label="% of the module's energy"),
    ]


def _colour(index: int, count: int) -> str:
    """The charts' eight shades, as far apart as so many lines can be."""
    return f"level-{round(7 * (index % 8) / max(1, min(count, 8) - 1))}"
