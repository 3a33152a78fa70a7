"""`acestep evaluate`: what a LoRA did, as songs side by side, figures with their uncertainty and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from acestep.cli.generate import load_pipeline
from acestep.cli.lora_weights import parse_lora
from acestep.cli.options import DebugOption, DeviceOption, ForceOption, JsonOption, ModelOption, parse_seeds
from acestep.cli.reporting import reporting
from acestep.errors import InputError

if TYPE_CHECKING:
    from acestep.evaluation.evaluation import Evaluation


def evaluate(
    lora: Annotated[str, typer.Argument(metavar="LORA[:WEIGHT]", help="A LoRA folder, file or hub id.")],
    prompts: Annotated[Path, typer.Option(help="Prompts: .txt (one a line), .json, .jsonl or .yaml.")],
    out: Annotated[Path, typer.Option(help="Folder for the songs, evaluation.json and report.html.")],
    model: ModelOption = "nano",
    seeds: Annotated[str, typer.Option(help="Seeds for each prompt, with commas between.")] = "1,2",
    duration: Annotated[float, typer.Option(help="Length of each song in seconds, 5 to 240.")] = 15.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; by default the base model's own.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Recordings of the style that were not trained on, to measure how near the songs come."),
    ] = None,
    force: ForceOption = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the same songs with and without a LoRA, and measure the difference."""
    chosen, chosen_seeds = parse_lora(lora), parse_seeds(seeds)
    if chosen.changes:
        raise typer.BadParameter(f"{lora!r} changes along the song; an evaluation is of one strength, as in ./mine:0.8")
    with reporting(as_json=as_json, debug=debug) as reporter:
        check_folder(out, force=force)
        from acestep.evaluation.prompts import read_prompts

        asked = read_prompts(prompts)
        pipeline = load_pipeline(reporter, model, device=device)
        from acestep.evaluation.advice import advise
        from acestep.evaluation.evaluation import evaluate_lora
        from acestep.evaluation.page import write_page
        from acestep.evaluation.recordings import read_held_out
        from acestep.lora.whole_folder import written_whole

        recordings = None
        if held_out is not None:
            with reporter.progress("Reading held-out recordings") as progress:
                recordings = read_held_out(pipeline.family, held_out, progress=progress)
        with written_whole(out) as folder:
            evaluation = evaluate_lora(
                pipeline,
                chosen.path,
                asked,
                folder=folder,
                weight=1.0 if chosen.weight is None else chosen.weight,
                seeds=chosen_seeds,
                duration_s=duration,
                held_out=recordings,
                stage=reporter.progress,
                steps=steps,
            )
            evaluation.save(folder)
            write_page(folder, evaluation, title=f"What {Path(chosen.path).name} did", advice=advise(evaluation))
        page = out / "report.html"
        reporter.result(
            {"report": str(page), **evaluation.as_dict()},
            *summary(evaluation),
            f"Listen: [bold]{escape(str(page))}[/bold]",
        )


def check_folder(out: Path, *, force: bool) -> None:
    """Refuse a folder that holds anything, but for an earlier evaluation that is to be replaced."""
    from acestep.evaluation.evaluation import RESULT_FILE

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RESULT_FILE).is_file():
        raise InputError(f"{out} is there already and is no evaluation; give a new folder, or move it away")
    if not force:
        raise InputError(f"{out} holds an evaluation already; give another --out, or --force to replace it")


def summary(evaluation: Evaluation) -> list[Table | str]:
    """The figures as a table, and what they amount to."""
    from acestep.evaluation.evaluation import verdict

    parts: list[Table | str] = []
    if evaluation.figures:
        # Within 80 columns, which is what a terminal has that nobody widened.
        table = Table("", box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
        table.title = "Base and LoRA side by side; lower is nearer to the style"
        for name in ("Base", "LoRA", "Recordings"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("Change [95 %]", no_wrap=True)
        table.add_column("")
        for figure in evaluation.figures:
            change = figure.change
            table.add_row(
                figure.name,
                f"{figure.base:.3g}",
                f"{figure.adapted:.3g}",
                "" if figure.recordings is None else f"{figure.recordings:.2g}",
                escape(f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"),
                "nearer" if change.falls else "further" if change.rises else "unclear",
            )
        parts.append(table)
    parts += [f"Left out: {measure}, because {why}." for measure, why in evaluation.left_out]
    return [*parts, f"[bold]{escape(verdict(evaluation))}[/bold]"]
