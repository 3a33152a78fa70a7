"""A run folder to report on: losses that fall and rise again, events of all kinds, songs that can be played."""

from __future__ import annotations

import math
from pathlib import Path

from acestep.audio.files import write_audio
from acestep.training.results import ExampleLoss, Sample, SamplesResult, SigmaBin, ValidationResult
from acestep.training.run_folder import RunFolder
from evaluation.songs import RATE, coloured_noise
from training.test_history import record, step_result

HOSTILE = '<script>alert("x")</script>\' onload=y & <img src=x onerror=z>'
STEPS, EPOCHS = 40, 4


def write_run(folder: Path, *, songs: bool = True, ended: bool = True) -> RunFolder:
    run = record(folder, _look(0, 0))
    run.add_event("started", total_steps=STEPS, epochs=EPOCHS, training_tracks=3, held_out_tracks=3, warnings=[HOSTILE])
    per_epoch = STEPS // EPOCHS
    for step in range(1, STEPS + 1):
        epoch = (step - 1) // per_epoch + 1
        sigmas = (0.2 + 0.015 * step, 0.9 - 0.01 * step)
        examples = tuple(ExampleLoss(f"t{place}", sigma, sigma**2) for place, sigma in enumerate(sigmas))
        loss = sum(example.loss for example in examples) / 2
        record(folder, step_result(step, loss=loss, examples=examples, epoch=epoch, grad_norm=0.1 * step))
        if step % per_epoch == 0:
            record(folder, _look(step, epoch))
            run.add_event("checkpoint", path=f"epoch-{epoch:04}")
            if songs:
                record(folder, _round(folder, step, epoch))
    run.add_event("diagnosis", kind="overfitting", step=STEPS, message=HOSTILE, advice="Fewer epochs.")
    (folder / "config.yaml").write_text(f"base_model: nano\nlora: {{rank: 4}}\n# {HOSTILE}\n", encoding="utf-8")
    if ended:
        run.add_event("finished", reason="all steps are done", steps=STEPS, seconds=80.0)
    return run


def _look(step: int, epoch: int) -> ValidationResult:
    share = 1 - 0.3 * math.sin(math.pi * epoch / 5)
    tracks = {HOSTILE: 1.1 * share, "b": 1.0 * share, "c": 2.0 - 0.01 * epoch}
    mean = sum(tracks.values()) / 3
    levels = tuple(SigmaBin(sigma, mean * sigma, 0.01) for sigma in (0.2, 0.5, 0.9))
    return ValidationResult(step, epoch, mean, 0.1, tracks, levels)


def _round(folder: Path, step: int, epoch: int) -> SamplesResult:
    """Two prompts; the base's songs lie in a folder of their own, under a name that a link must escape."""
    songs = []
    for seed, prompt in enumerate((HOSTILE, "lofi, 82 bpm")):
        name = f"song #{seed} ü 100%.flac"
        base, own = (folder / "samples" / place / name for place in ("base", f"epoch-{epoch:04}"))
        for path, slope in ((base, -4.0), (own, 2.0 * epoch)):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_audio(path, coloured_noise(slope, seed=seed, seconds=3.0).astype("float32"), RATE)
        inside = [path.relative_to(folder) for path in (own, base)]
        songs.append(Sample(prompt, HOSTILE if seed == 0 else "", seed, *inside))
    return SamplesResult(step, epoch, Path("samples") / f"epoch-{epoch:04}", tuple(songs), 0.1)
