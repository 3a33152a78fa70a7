"""report.html: an evaluation as one page in a folder, which opens from the file system without a server.

Songs and pictures lie beside it; style, script and charts are inside. Everything from outside (prompts, lyrics, names)
is escaped by the template.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from acestep.evaluation.advice import Advice
from acestep.evaluation.charts import Chart, Series, interval_bar, line_chart
from acestep.evaluation.curves import TrainingCurves
from acestep.evaluation.evaluation import Evaluation, verdict
from acestep.evaluation.page_templates import page_environment, plain_number, signed_number
from acestep.evaluation.report_card import report_card
from acestep.evaluation.side_by_side import Take
from acestep.evaluation.whole_file import write_text_whole

PAGE_FILE = "report.html"

_OPTIONS = {
    "steps": "--steps",
    "guidance_scale": "--guidance-scale",
    "scheduler": "--scheduler",
    "guidance": "--guidance",
    "guidance_interval": "--guidance-interval",
    "guidance_interval_decay": "--guidance-interval-decay",
    "min_guidance_scale": "--min-guidance-scale",
    "omega_scale": "--omega-scale",
}


def write_page(
    folder: Path,
    evaluation: Evaluation,
    *,
    title: str,
    advice: Sequence[Advice],
    curves: TrainingCurves | None = None,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write the page beside the evaluation's songs in `folder`, whole or not at all.

    facts: name and value, shown under the verdict; notes: sentences about where the recordings came from.
    """
    page = render_page(evaluation, title=title, advice=advice, curves=curves, facts=facts, notes=notes)
    return write_text_whole(folder / PAGE_FILE, page)


def render_page(
    evaluation: Evaluation,
    *,
    title: str,
    advice: Sequence[Advice],
    curves: TrainingCurves | None = None,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The page's HTML."""
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            verdict=verdict(evaluation),
            facts=[*_facts(evaluation), *facts],
            weight=evaluation.weight,
            curve=evaluation.curve,
            aim_name=evaluation.main.aim.short if evaluation.main.aim is not None else None,
            strength_chart=_strength_chart(evaluation),
            findings=evaluation.findings,
            alarms=evaluation.alarms,
            blind_key=_blind_key(evaluation),
            figures=[(figure, interval_bar(figure.change)) for figure in evaluation.figures],
            moved=evaluation.moved,
            apart=evaluation.apart if math.isfinite(evaluation.apart) else None,
            left_out=evaluation.left_out,
            notes=notes,
            charts=_charts(evaluation, curves),
            comparisons=evaluation.comparisons,
            advice=advice,
            version=version("acesteps"),
            command=song_recipe,
            number=plain_number,
            signed=signed_number,
        )
    )


def song_recipe(take: Take) -> str:
    """The command that makes a song again, bit for bit, on the same kind of machine."""
    params = take.recipe.get("params", {})
    words = [
        "acestep",
        "generate",
        "--model",
        str(take.recipe.get("model", "")),
        "--prompt",
        str(params.get("prompt", "")),
    ]
    if params.get("lyrics"):
        words += ["--lyrics", str(params["lyrics"])]
    words += ["--duration", f"{params.get('duration', take.duration_s):g}", "--seed", str(params.get("seed", ""))]
    for name, option in _OPTIONS.items():
        if params.get(name) is not None:
            words += [option, str(params[name])]
    if "erg" in params:
        words += ["--erg", ",".join(params["erg"] or ()) or "none"]
    for lora in take.recipe.get("loras", ()):
        if lora["weight"] != 0:
            words += ["--lora", f"{lora['path']}:{lora['weight']:g}"]
    return shlex.join(words)


def _strength_chart(evaluation: Evaluation) -> Chart | None:
    """The aim over strength, with its interval; None where fewer than two strengths have one."""
    aims = [(point.strength, point.aim) for point in evaluation.curve.points if point.aim is not None]
    if len(aims) < 2:
        return None
    points = [(0.0, aims[0][1].base), *((strength, aim.base + aim.change.value) for strength, aim in aims)]
    band = [(strength, aim.base + aim.change.low, aim.base + aim.change.high) for strength, aim in aims]
    series = [Series(aims[0][1].short, sorted(points), "adapted", band)]
    return line_chart(series, title="Aim by strength", x_label="strength", y_label="lower is nearer to the style")


def _blind_key(evaluation: Evaluation) -> str:
    """Under which a browser keeps the votes: another evaluation has others."""
    return "acestep-blind-" + hashlib.sha256(report_card(evaluation).text().encode()).hexdigest()[:16]


def _charts(evaluation: Evaluation, curves: TrainingCurves | None) -> list[Chart]:
    drawn = []
    if curves is not None:
        series = [Series("training", curves.training, "base"), Series("validation", curves.validation, "adapted")]
        drawn.append(line_chart(series, title="Training", x_label="step", y_label="loss"))
    if evaluation.losses is not None:
        levels = evaluation.losses.by_level
        series = [
            Series("base", [(sigma, base) for sigma, base, _, _ in levels], "base"),
            Series("LoRA", [(sigma, adapted) for sigma, _, adapted, _ in levels], "adapted"),
        ]
        title = "Held-out loss by noise level"
        drawn.append(line_chart(series, title=title, x_label="sigma: 0 is clean, 1 is noise", y_label="loss"))
    return [chart for chart in drawn if chart is not None]


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    prompts = {(comparison.prompt.prompt, comparison.prompt.lyrics) for comparison in evaluation.comparisons}
    return [
        ("Base model", evaluation.model),
        ("LoRA", f"{evaluation.lora} × {', '.join(f'{strength:g}' for strength in evaluation.strengths)}"),
        ("Songs", f"{len(prompts)} prompts × {len(evaluation.seeds)} seeds, {evaluation.duration_s:g} s"),
    ]
