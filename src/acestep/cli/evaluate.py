"""`acestep evaluate`: what a LoRA did, as songs side by side, figures with their uncertainty and a page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from acestep.cli.generate import load_pipeline
from acestep.cli.lora_weights import MAX_WEIGHT, parse_lora
from acestep.cli.options import DebugOption, DeviceOption, ForceOption, JsonOption, ModelOption, parse_seeds
from acestep.cli.reporting import Reporter, reporting
from acestep.errors import AceStepError, InputError

if TYPE_CHECKING:
    from acestep.datasets.preparation import PreparationProgress
    from acestep.evaluation import DatasetParts, Evaluation, HeldOut, Prompt
    from acestep.families.base import Family

STRENGTHS = "0,0.5,1,1.5"
MAX_DATASET_PROMPTS = 8
"""Prompts taken from a dataset where no file names any."""


def evaluate(
    lora: Annotated[str, typer.Argument(metavar="LORA[:WEIGHT]", help="A LoRA folder, file or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the songs, evaluation.json and report.html.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts: .txt (one a line), .json, .jsonl or .yaml; else the dataset's own.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="The dataset it was trained on: its held-out part measures the aim, the rest memorisation."),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help=f"Strengths to compare, {STRENGTHS} by default; 0 is the base.")
    ] = None,
    model: ModelOption = "nano",
    seeds: Annotated[str, typer.Option(help="Seeds for each prompt, with commas between.")] = "1,2",
    duration: Annotated[float, typer.Option(help="Length of each song in seconds, 5 to 240.")] = 15.0,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; by default the base model's own.")] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Recordings of the style that were not trained on, to measure how near the songs come."),
    ] = None,
    validation_split: Annotated[
        float | None, typer.Option(help="The share of --dataset that was held out; by default the training's own.")
    ] = None,
    suite: Annotated[
        int, typer.Option(min=0, help="Prompts of the public suite to look for damage with; 0 leaves it out.")
    ] = 4,
    cache: Annotated[bool, typer.Option(help="Keep the base's songs for evaluations of other LoRAs.")] = True,
    write_recommendation: Annotated[
        bool,
        typer.Option(help="Write the report card and the recommended strength into the LoRA's own folder."),
    ] = True,
    force: ForceOption = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the same songs with and without a LoRA at several strengths, and measure the difference."""
    chosen, chosen_seeds = parse_lora(lora), parse_seeds(seeds)
    # A weight of the LoRA's own is the one strength that is asked about, unless strengths are named.
    wanted = parse_strengths(strengths or ("0" if chosen.weight is not None else STRENGTHS))
    if chosen.changes:
        raise typer.BadParameter(f"{lora!r} changes its strength inside a song; give one weight, or --strengths")
    if prompts is None and dataset is None:
        raise typer.BadParameter("give --prompts FILE, or --dataset DIR to take prompts from its held-out part")
    with reporting(as_json=as_json, debug=debug) as reporter:
        check_folder(out, force=force)
        from acestep.evaluation.prompts import read_prompts

        asked = read_prompts(prompts) if prompts is not None else None
        pipeline = load_pipeline(reporter, model, device=device)
        from acestep.evaluation import (
            SongCache,
            advise,
            evaluate_lora,
            publish_card,
            report_card,
            save_card,
            write_page,
        )
        from acestep.evaluation.listeners import further_measures
        from acestep.lora.whole_folder import written_whole

        parts = None
        if dataset is not None:
            share = split_of(chosen.path) if validation_split is None else validation_split
            parts = read_parts(reporter, pipeline.family, dataset, share)
        recordings = read_recordings(reporter, pipeline.family, held_out, parts)
        asked = asked if asked is not None else prompts_of(parts)
        songs = SongCache() if cache else None
        with written_whole(out) as folder:
            evaluation = evaluate_lora(
                pipeline,
                chosen.path,
                asked,
                folder=folder,
                strengths=wanted,
                weight=chosen.weight,
                seeds=chosen_seeds,
                duration_s=duration,
                held_out=recordings,
                cache=songs,
                listeners=further_measures(
                    folder, lora=chosen.path, parts=parts, cache=songs, suite_prompts=suite, steps=steps
                ),
                stage=reporter.progress,
                steps=steps,
            )
            if write_recommendation:
                evaluation, said = publish_card(evaluation)
                reporter.say(escape(said))
            save_card(evaluation, folder)
            write_page(folder, evaluation, title=f"What {Path(chosen.path).name} did", advice=advise(evaluation))
        page = out / "report.html"
        reporter.result(
            {"report": str(page), **report_card(evaluation).model_dump(mode="json", by_alias=True)},
            *summary(evaluation),
            f"Listen: [bold]{escape(str(page))}[/bold]",
        )


def parse_strengths(text: str) -> tuple[float, ...]:
    """`0,0.5,1` to numbers; BadParameter for anything else, and for what no LoRA is heard at."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} are not strengths; write numbers with commas, as in {STRENGTHS}") from None
    if not all(math.isfinite(strength) and abs(strength) <= MAX_WEIGHT for strength in found):
        raise typer.BadParameter(f"{text!r} holds a strength outside {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return found


def split_of(lora: str) -> float:
    """What the training of a LoRA in its run folder held out; training's default for any other LoRA."""
    from acestep.evaluation.recordings import HELD_OUT_SHARE
    from acestep.training.config import TrainingConfig

    config = Path(lora).resolve().parent / "config.yaml"
    try:
        return TrainingConfig.from_yaml(config).data.validation_split if config.is_file() else HELD_OUT_SHARE
    except AceStepError:  # another program's file of that name
        return HELD_OUT_SHARE


def read_parts(reporter: Reporter, family: Family, dataset: Path, share: float) -> DatasetParts:
    """The dataset, split as its training did, with a bar."""
    from acestep.evaluation import read_dataset_parts

    with reporter.progress("Reading the dataset") as progress:

        def hear(done: PreparationProgress) -> None:
            progress(done.versions_done, done.versions)

        parts = read_dataset_parts(family, dataset, held_out=share, on_progress=hear)
    if parts.held_out is None:
        reporter.say(f"{escape(str(dataset))} holds too few recordings to hold any out; the aim is not measured")
    return parts


def read_recordings(
    reporter: Reporter, family: Family, held_out: Path | None, parts: DatasetParts | None
) -> HeldOut | None:
    """Held-out recordings: the folder that was named, else the dataset's own part."""
    from acestep.evaluation import held_out_part, read_held_out

    if held_out is None and (parts is None or parts.held_out is None):
        return None
    with reporter.progress("Reading held-out recordings") as progress:
        if held_out is not None:
            return read_held_out(family, held_out, progress=progress)
        assert parts is not None
        assert parts.held_out is not None
        return held_out_part(parts.held_out, family, progress=progress)


def prompts_of(parts: DatasetParts | None) -> list[Prompt]:
    """Prompts of the dataset's held-out part; InputError where it has none."""
    found = list(parts.prompts[:MAX_DATASET_PROMPTS]) if parts is not None else []
    if not found:
        raise InputError("the dataset's tracks have no prompts; give some with --prompts FILE")
    return found


def check_folder(out: Path, *, force: bool) -> None:
    """Refuse a folder that holds anything, but for an earlier evaluation that is to be replaced."""
    from acestep.evaluation.report_card import RESULT_FILE

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
    if len(evaluation.strengths) > 1:
        parts.append(strength_table(evaluation))
    for found in evaluation.findings:
        alarm = "[bold red]ALARM[/bold red] " if found.alarm else ""
        parts.append(f"{alarm}[bold]{escape(found.title)}[/bold]: {escape(found.says)}")
    parts += [f"Left out: {escape(measure)}, because {escape(why)}." for measure, why in evaluation.left_out]
    return [*parts, f"[bold]{escape(verdict(evaluation))}[/bold]"]


def strength_table(evaluation: Evaluation) -> Table:
    """What each strength gains and harms."""
    curve = evaluation.curve
    title = f"Strength to use: {curve.recommended:g}" if curve.recommended is not None else "No strength to recommend"
    table = Table("Strength", box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.title = f"{title} ({escape(curve.reason)})"
    for name in ("Aim [95 %]", "Moved", "Harms"):
        table.add_column(escape(name))
    for point in curve.points:
        aim = point.aim.change if point.aim is not None else None
        table.add_row(
            f"{point.strength:g}",
            "" if aim is None else escape(f"{aim.value:+.3g} [{aim.low:+.3g}, {aim.high:+.3g}]"),
            f"{point.moved:.2g}",
            escape(", ".join(point.harms)) or "nothing measured",
        )
    return table
