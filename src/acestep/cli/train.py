"""`acestep train`: a config file to a LoRA."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from acestep.cli.options import DebugOption, DeviceOption, JsonOption
from acestep.cli.reporting import FAILED, Reporter, reporting

if TYPE_CHECKING:
    from acestep.datasets.latent_dataset import LatentDataset
    from acestep.datasets.preparation import PreparationProgress
    from acestep.training import LoRATrainer, TrainingSummary, ValidationResult


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The training config; see docs/train.md.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the config's output_dir.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run will need, and what would fit; train nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Look first whether the run fits into memory and disk, and refuse what does not.")
    ] = True,
    skip_bad: Annotated[bool, typer.Option(help="Leave out tracks that cannot be used, and name them.")] = False,
    evaluate: Annotated[
        bool, typer.Option(help="Make a few songs with and without the LoRA at the end, and measure what it did.")
    ] = True,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a LoRA on a folder of recordings."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.training import LoRATrainer, ProgressCallback, TrainingConfig

        settings = TrainingConfig.from_yaml(config)
        reporter.say(f"[dim]Loading {escape(settings.base_model)}[/dim]")
        trainer = LoRATrainer(config=settings, device=device)
        if dry_run:
            planned = trainer.plan()
            reporter.result(planned.as_dict(), escape(planned.table()))
            if planned.problems:
                raise typer.Exit(FAILED)
            return
        dataset = prepare(reporter, trainer, skip_bad=skip_bad)
        again = shlex.join(["acestep", "train", str(config), "--resume"])
        reporter.on_interrupt = f"interrupted; the run's state is kept, `{again}` goes on from it"
        summary = trainer.train(dataset, callbacks=[ProgressCallback(reporter.console)], resume=resume, check=check)
        machine, human = describe(summary), list(tell(summary))
        if evaluate and summary.outcome == "finished" and trainer.processes.count == 1:
            machine["evaluation"], said = look(reporter, trainer, summary, dataset)
            human += said
        reporter.result(machine, *human)


def look(
    reporter: Reporter, trainer: LoRATrainer, summary: TrainingSummary, dataset: LatentDataset
) -> tuple[str | None, list[str]]:
    """A first evaluation -> its page and what it says; None where it could not be made."""
    from acestep.evaluation import verdict
    from acestep.evaluation.after_training import FOLDER, evaluate_after_training
    from acestep.evaluation.page import PAGE_FILE

    reporter.on_interrupt = f"interrupted while evaluating; the LoRA is whole: {summary.adapter}"
    evaluation = evaluate_after_training(trainer, summary, dataset, stage=reporter.progress)
    if evaluation is None:
        return None, []
    page = str(summary.folder / FOLDER / PAGE_FILE)
    alarms = [f"[bold red]ALARM[/bold red] {escape(finding.says)}" for finding in evaluation.alarms]
    return page, [*alarms, escape(verdict(evaluation)), f"Listen: [bold]{escape(page)}[/bold]"]


def prepare(reporter: Reporter, trainer: LoRATrainer, *, skip_bad: bool = False) -> LatentDataset:
    """The config's dataset, checked and encoded, with a bar over recordings and their changed copies."""
    with reporter.progress("Encoding recordings") as progress:

        def hear(done: PreparationProgress) -> None:
            progress(done.versions_done, done.versions)

        return trainer.prepare_dataset(skip_bad=skip_bad, on_progress=hear)


def describe(summary: TrainingSummary) -> dict[str, Any]:
    """What programs are told about a finished run."""
    return {
        "outcome": summary.outcome,
        "reason": summary.reason,
        "folder": str(summary.folder),
        "adapter": str(summary.adapter),
        "steps": summary.steps,
        "best_step": summary.best_step,
        "seconds": round(summary.seconds, 1),
        "held_out_loss": {
            "first": _loss(summary.first_validation),
            "last": _loss(summary.last_validation),
        },
    }


def tell(summary: TrainingSummary) -> list[str]:
    """The same for people."""
    lines = [f"{summary.steps} steps in {summary.seconds:.0f} s: {summary.outcome}, {summary.reason}"]
    first, last = summary.first_validation, summary.last_validation
    if first is not None and last is not None:
        change = (last.val_loss - first.val_loss) / first.val_loss
        lines.append(f"Held-out loss {first.val_loss:.4f} before, {last.val_loss:.4f} after ({change:+.1%})")
    if summary.best_step is not None:
        lines.append(f"The best state was that after step {summary.best_step}, and it is the result")
    lines.append(f"The LoRA: [bold]{escape(str(summary.adapter))}[/bold]")
    return lines


def _loss(validation: ValidationResult | None) -> float | None:
    return None if validation is None else validation.val_loss
