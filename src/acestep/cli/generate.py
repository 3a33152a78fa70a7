"""`acestep generate`: a prompt, and perhaps lyrics and LoRAs, to a song in a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from acestep.cli.lora_weights import WeightedLora, parse_lora
from acestep.cli.options import (
    DebugOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    ModelOption,
    QuantizeOption,
    RawScaleOption,
    existing_text,
)
from acestep.cli.reporting import Reporter, reporting
from acestep.errors import InputError

if TYPE_CHECKING:
    from acestep.pipeline import ACEStepPipeline, GenerationResult

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_SAMPLING = "Sampling (each has the base model's own default)"


def generate(
    prompt: Annotated[str, typer.Option(help="What the song is like: style, mood, instruments, tempo, key.")],
    model: ModelOption = "nano",
    lyrics: Annotated[str, typer.Option(help=r"Lyrics, with \[verse] and \[chorus] marks if wanted.")] = "",
    lyrics_file: Annotated[Path | None, typer.Option(help="A UTF-8 text file with the lyrics.")] = None,
    duration: Annotated[float, typer.Option(help="Length in seconds, 5 to 240.")] = 30.0,
    seed: Annotated[int | None, typer.Option(help="Makes a song repeatable; drawn and told when not given.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH[:WEIGHT]",
            help="A LoRA folder, file, hub id or official name; may be given several times. ./choir:0.3,1@32-48s is 0.3"
            " strong and 1 in those seconds.",
        ),
    ] = None,
    raw_scale: RawScaleOption = False,
    quantize: QuantizeOption = None,
    out: Annotated[Path, typer.Option(help="Where the song goes: .wav, .flac, .ogg or .mp3.")] = Path("song.wav"),
    force: ForceOption = False,
    steps: Annotated[int | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    guidance_scale: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    scheduler: Annotated[str | None, typer.Option(help="euler, heun or pingpong", rich_help_panel=_SAMPLING)] = None,
    guidance: Annotated[
        str | None, typer.Option(help="apg, cfg, cfg_zero_star or double", rich_help_panel=_SAMPLING)
    ] = None,
    guidance_interval: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    guidance_interval_decay: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    min_guidance_scale: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    omega_scale: Annotated[float | None, typer.Option(rich_help_panel=_SAMPLING)] = None,
    erg: Annotated[
        str | None,
        typer.Option(help="tag, lyric, diffusion with commas between, or none", rich_help_panel=_SAMPLING),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a song from a prompt."""
    if lyrics and lyrics_file is not None:
        raise typer.BadParameter("give --lyrics or --lyrics-file, not both")
    words = existing_text(lyrics_file) if lyrics_file is not None else lyrics
    loras = [parse_lora(text) for text in lora or ()]
    sampling: dict[str, Any] = {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "scheduler": scheduler,
        "guidance": guidance,
        "guidance_interval": guidance_interval,
        "guidance_interval_decay": guidance_interval_decay,
        "min_guidance_scale": min_guidance_scale,
        "omega_scale": omega_scale,
        "erg": parse_erg(erg),
    }
    with reporting(as_json=as_json, debug=debug) as reporter:
        check_output(out, force=force)
        started = time.monotonic()
        pipeline = load_pipeline(
            reporter, model, device=device, loras=loras, raw_scale=raw_scale, quantization=quantize
        )
        loaded = time.monotonic()
        with reporter.progress("Making the song") as progress:
            result = pipeline(prompt, words, duration=duration, seed=seed, callback=progress, **sampling)
        made = time.monotonic()
        out.parent.mkdir(parents=True, exist_ok=True)
        result.save(out)
        seconds = {"load": round(loaded - started, 3), "generate": round(made - loaded, 3)}
        machine = describe(result, out) | {"model": model, "loras": result.recipe["loras"], "seconds": seconds}
        length_s = machine["duration_s"]
        reporter.result(
            machine,
            f"[bold]{escape(str(out))}[/bold]  {length_s:.1f} s, seed {result.seed}, "
            f"made in {made - loaded:.1f} s ({length_s / max(made - loaded, 1e-6):.1f} times real time)",
        )


def check_output(path: Path, *, force: bool) -> None:
    """Refuse before any work what could not be written after it."""
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        raise InputError(f"{path} does not end in a known audio format; expected {', '.join(AUDIO_SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file name for the song")
    if path.exists() and not force:
        raise InputError(f"{path} is there already; give another --out, or --force to replace it")


def load_pipeline(
    reporter: Reporter,
    model: str,
    *,
    device: str | None = None,
    loras: Sequence[WeightedLora] = (),
    raw_scale: bool = False,
    quantization: Literal["int8", "nf4"] | None = None,
) -> ACEStepPipeline:
    """The base model with its LoRAs attached."""
    reporter.say(f"[dim]Loading {escape(model)}[/dim]")
    from acestep.pipeline import ACEStepPipeline

    pipeline = ACEStepPipeline.from_pretrained(model, device=device, quantization=quantization)
    for item in loras:
        pipeline.load_lora(item.path, item.strength(), raw_scale=raw_scale)
    return pipeline


def parse_erg(text: str | None) -> tuple[str, ...] | None:
    """`tag,lyric` to names, `none` to no names; None leaves the base model's default."""
    if text is None:
        return None
    return () if text.strip().lower() == "none" else tuple(part.strip() for part in text.split(",") if part.strip())


def describe(result: GenerationResult, path: Path) -> dict[str, Any]:
    """What programs are told about a song."""
    return {
        "path": str(path),
        "sample_rate": result.sample_rate,
        "duration_s": round(result.audio.shape[-1] / result.sample_rate, 3),
        "seed": result.seed,
        "params": result.params,
    }
