"""`acestep demo`: from a folder of recordings to a LoRA that can be heard, in one command.

Makes a small dataset (a synthesised style that nano does not know, or excerpts of the user's recordings), trains a
LoRA on it, makes the same songs with and without it, measures the difference and leaves a page to listen on.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from acestep.cli.evaluate import summary
from acestep.cli.options import DebugOption, ForceOption, JsonOption
from acestep.cli.reporting import Reporter, reporting
from acestep.cli.train import describe, prepare, tell
from acestep.errors import InputError

if TYPE_CHECKING:
    from acestep.cli.demo_material import Material
    from acestep.datasets.latent_dataset import LatentDataset
    from acestep.evaluation import Prompt
    from acestep.training import TrainingConfig

MARKER = "demo.json"
OWN = ("dataset", "training", "songs", "passages", "report.html", "evaluation.json", MARKER)
"""All that a demo puts into its folder; nothing else there is ever touched."""
HELD_OUT = 0.25
PROMPTS = 6
SEEDS = (1, 2)
SONG_S = 12.0
TRAINING_LIMIT_S = 225.0
"""The demo promises a training of four minutes, on a slow machine too; it then stops where it is."""


def demo(
    audio: Annotated[
        Path | None,
        typer.Option(help="Your own recordings, to train on instead of a synthesised style; they are only read."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    model: Annotated[str, typer.Option(hidden=True)] = "nano",
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a LoRA on a new style in minutes, and hear what it does."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        check_recordings(audio, out)
        claim_folder(out, force=force)
        started = time.monotonic()
        reporter.say("[dim]Loading the libraries[/dim]")
        from acestep.cli.time_limit import TimeLimitCallback
        from acestep.evaluation import (
            DatasetParts,
            advise,
            evaluate_lora,
            held_out_part,
            publish_card,
            read_curves,
            report_card,
            save_card,
            write_page,
        )
        from acestep.evaluation.listeners import EffectListener
        from acestep.evaluation.memorised_passages import MemorisationListener
        from acestep.pipeline import ACEStepPipeline
        from acestep.training import LoRATrainer, ProgressCallback

        material = gather(reporter, audio, out / "dataset")
        config = training_config(model, out)
        trainer = LoRATrainer(config=config)
        dataset = prepare(reporter, trainer)
        trained = trainer.train(
            dataset, callbacks=[ProgressCallback(reporter.console), TimeLimitCallback(TRAINING_LIMIT_S)]
        )
        for line in tell(trained):
            reporter.say(line)
        training, held_out = dataset.split(config.data.validation_split)
        assert held_out is not None, "a demo has at least four different recordings"
        with reporter.progress("Listening to held-out recordings") as progress:
            recordings = held_out_part(held_out, trainer.family, progress=progress)
        evaluation = evaluate_lora(
            ACEStepPipeline(trainer.family, model=model),
            trained.adapter,
            song_prompts(material, held_out),
            folder=out,
            seeds=SEEDS,
            duration_s=SONG_S,
            held_out=recordings,
            listeners=(
                EffectListener(trained.adapter),
                MemorisationListener(out, DatasetParts(out / "dataset", training, held_out, ())),
            ),
            stage=reporter.progress,
        )
        curves = read_curves(trained.folder / "metrics.jsonl")
        facts = [
            ("Training", f"{trained.steps} steps of rank {config.lora.rank} in {trained.seconds:.0f} s"),
            ("Recordings", f"{len(training)} trained on, {len(held_out)} held out"),
        ]
        # One strength was tried, so there is nothing to recommend.
        evaluation, _ = publish_card(evaluation, recommend=False)
        save_card(evaluation, out)
        page = write_page(
            out,
            evaluation,
            title=f"A LoRA for {material.style}",
            advice=advise(evaluation, curves, tracks=len(training)),
            curves=curves,
            facts=facts,
            notes=material.notes,
        )
        seconds = round(time.monotonic() - started, 1)
        outcome = {
            "report": str(page),
            "training": describe(trained),
            "notes": list(material.notes),
            "seconds": seconds,
        }
        finish(out, outcome)
        reporter.result(
            {**outcome, "evaluation": report_card(evaluation).model_dump(mode="json", by_alias=True)},
            *summary(evaluation),
            f"Done in {seconds:.0f} s. Listen: [bold]{escape(str(page))}[/bold]",
        )


def check_recordings(audio: Path | None, out: Path) -> None:
    """Refuse a folder that is not there, and one that holds the demo or lies in it: a demo clears its own files."""
    if audio is None:
        return
    if not audio.is_dir():
        raise InputError(f"there is no folder {audio}; give a folder with recordings")
    source, target = audio.resolve(), out.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise InputError(f"{out} and {audio} lie in each other; put the demo elsewhere, such as --out ../demo")


def claim_folder(out: Path, *, force: bool) -> None:
    """Take an empty or new folder, or clear an earlier demo's own files; a folder of anything else is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the demo")
    if out.is_dir() and any(out.iterdir()):
        if not _is_demo(out):
            raise InputError(f"{out} holds files that no demo made; give another --out")
        if _is_finished(out) and not force:
            raise InputError(f"{out} holds a finished demo; --force makes it anew, --out puts one elsewhere")
        for name in OWN:
            _remove(out / name)
    out.mkdir(parents=True, exist_ok=True)
    _write_marker(out, {"finished": False})


def gather(reporter: Reporter, audio: Path | None, folder: Path) -> Material:
    """The demo's dataset, and what is to be known about it said on the terminal."""
    from acestep.cli.demo_material import excerpt, synthesise

    with reporter.progress("Reading recordings" if audio else "Synthesising recordings of a new style") as progress:
        material = excerpt(audio, folder, progress=progress) if audio else synthesise(folder, progress=progress)
    for note in material.notes:
        reporter.say(escape(note))
    return material


def training_config(model: str, out: Path) -> TrainingConfig:
    """What a LoRA on nano learns in about three minutes on two cores."""
    from acestep.training import TrainingConfig

    return TrainingConfig.model_validate(
        {
            "base_model": model,
            "output_dir": str(out / "training"),
            "lora": {"rank": 16, "alpha": 16.0, "dropout": 0.0},
            "training": {
                "epochs": 80,
                "batch_size": 4,
                "gradient_accumulation": 1,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "validate_every": 10,
            },
            "data": {
                "train_dir": str(out / "dataset"),
                "validation_split": HELD_OUT,
                "max_duration": 12.0,
                "augmentation": {"pitch_shift": False, "time_stretch": False},
            },
            # The demo compares songs at its end.
            "samples": {"every_epochs": None},
            "gradient_checkpointing": False,
        }
    )


def song_prompts(material: Material, held_out: LatentDataset) -> list[Prompt]:
    """What to ask for: prompts of recordings that were held out, or variations where all are alike."""
    from acestep.cli.demo_material import different
    from acestep.evaluation import Prompt

    own = material.prompts or [Prompt(prompt=track.prompt) for track in held_out.tracks]
    return different(own, PROMPTS)


def finish(out: Path, outcome: dict[str, object]) -> None:
    """Mark the folder as holding a whole demo."""
    _write_marker(out, {"finished": True, **outcome})


def _is_demo(out: Path) -> bool:
    return (out / MARKER).is_file()


def _is_finished(out: Path) -> bool:
    try:
        return bool(json.loads((out / MARKER).read_text(encoding="utf-8"))["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_marker(out: Path, values: dict[str, object]) -> None:
    partial = out / f"{MARKER}.partial"
    partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(out / MARKER)


def _remove(path: Path) -> None:
    # A link is taken away itself; what it points to is someone else's.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
