"""`acestep lora`: what an adapter file is, from one format to another, the proof, and the official ones."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from acestep.cli.options import DebugOption, ForceOption, JsonOption
from acestep.cli.reporting import reporting
from acestep.wording import names_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from acestep.lora.inspection import Inspection

lora_app = typer.Typer(help="Look at LoRA files, convert, merge and trace them.", no_args_is_help=True)

LoraArgument = Annotated[
    str, typer.Argument(metavar="LORA", help="A LoRA folder, file, hub id or official name.", show_default=False)
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Base model: v1, nano or a checkpoint folder; by default found out from the file."),
]
FormatOption = Annotated[str, typer.Option("--to", help="acestep, peft, diffusers, comfyui or kohya.")]
_DTYPES = ("float32", "bfloat16", "float16")


@lora_app.command()
def inspect(
    lora: LoraArgument,
    base: BaseOption = None,
    header_only: Annotated[
        bool, typer.Option("--header-only", help="Do not read the tensors: no norms, no search for NaN.")
    ] = False,
    modules: Annotated[bool, typer.Option("--modules", help="List every module.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Tell what a LoRA file is: base, producer, kind, ranks, strength, coverage, and which programs read it."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.inspection import inspect_adapter

        found = inspect_adapter(lora, base=base, measure=not header_only)
        reporter.result(found.as_dict(), *_described(found), *([_module_table(found)] if modules else []))


@lora_app.command()
def convert(
    lora: LoraArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors file, or a folder.", show_default=False)],
    to: FormatOption,
    base: BaseOption = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="The most that a module may have; what it costs is told.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help=f"{', '.join(_DTYPES)}; by default the file's own.")] = None,
    raw_scale: Annotated[
        bool, typer.Option("--raw-scale", help="Take the factors as they lie, whatever the file says of its alpha.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a LoRA in another program's format, as strong as it was."""
    if dtype is not None and dtype not in _DTYPES:
        raise typer.BadParameter(f"{dtype!r} is no dtype; choose one of {', '.join(_DTYPES)}", param_hint="--dtype")
    with reporting(as_json=as_json, debug=debug) as reporter:
        import torch

        from acestep.lora.conversion import convert_adapter

        chosen = None if dtype is None else getattr(torch, dtype)
        done = convert_adapter(lora, out, to, base=base, rank=rank, dtype=chosen, raw_scale=raw_scale, force=force)
        report = done.adapter.report
        worst = max(report.lost.values(), default=0.0)
        machine = {
            "path": str(done.path),
            "format": to,
            "modules": len(report.matched),
            "rank": done.adapter.rank,
            "dtype": str(done.dtype).removeprefix("torch."),
            "unmatched": list(report.unmatched),
            "misshapen": list(report.misshapen),
            "lost": dict(report.lost),
        }
        lines = [f"{len(report.matched)} modules at rank {done.adapter.rank}: [bold]{escape(str(done.path))}[/bold]"]
        if report.lost:
            lines.append(
                f"The lower rank loses up to {worst:.2%} of a module's change (in {len(report.lost)} modules)."
            )
        reporter.result(machine, *lines)


@lora_app.command()
def verify(
    lora: LoraArgument,
    other: Annotated[str | None, typer.Argument(metavar="[OTHER]", help="What to compare it with.")] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Without OTHER: the format to convert into and back; by default all.")
    ] = None,
    base: BaseOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """The largest difference that a conversion, or another file, makes to any weight's change."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.adapter import read_adapter
        from acestep.lora.conversion import Verification, known_shapes, verify_adapters, verify_round_trip
        from acestep.lora.formats import FORMATS

        found: dict[str, Verification] = {}
        if other is not None:
            shapes = known_shapes(lora, base)
            found[other] = verify_adapters(read_adapter(lora, shapes), read_adapter(other, shapes))
        else:
            with tempfile.TemporaryDirectory(prefix="acestep-verify-") as folder:
                for name in FORMATS if to is None else (to,):
                    found[name] = verify_round_trip(lora, name, folder=Path(folder), base=base)
        table = Table("Against", "Largest difference", "Of the largest change", "Where", box=box.SIMPLE_HEAD)
        for name, result in found.items():
            table.add_row(
                escape(name), f"{result.largest:.3g}", f"{result.relative:.2g}", escape(result.module or "nowhere")
            )
        missing = [
            f"Only in one of them: {escape(', '.join(result.missing))}" for result in found.values() if result.missing
        ]
        machine = {name: {**vars(result), "relative": result.relative} for name, result in found.items()}
        reporter.result({"verified": machine}, table, *missing)


@lora_app.command(name="list")
def list_official(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """The official LoRAs: what each is for, how large it is, and whether it is released."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.catalogue import CATALOGUE

        parts: list[RenderableType] = []
        for lora in CATALOGUE:
            size = f", {lora.size_mb} MB" if lora.size_mb else ""
            parts += [
                f"[bold]{lora.name}[/bold] ({lora.status}{size}): {escape(lora.purpose)}",
                f"  Best for {escape(lora.best_use)}",
                f"  Prompt: {escape(lora.example_prompt)}",
                *([f"  {escape(lora.hub_id)}"] if lora.hub_id else []),
            ]
        names = ("name", "status", "purpose", "best_use", "size_mb", "hub_id", "example_prompt")
        reporter.result({"loras": [{name: getattr(lora, name) for name in names} for lora in CATALOGUE]}, *parts)


def _described(found: Inspection) -> list[RenderableType]:
    """What a person reads, within 80 columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    strengths = [f"{scale:g} ({count} modules)" for scale, count in found.strengths.items()]
    rows = {
        "File": f"{found.file} ({found.size_bytes / 1e6:.1f} MB, {', '.join(found.dtypes)})",
        "Base": found.base or "none that is known; name it with --base",
        "Made by": f"{found.producer} ({found.metadata.method})" if found.metadata.family else found.producer,
        "Named as": found.naming,
        "Kind": ", ".join(found.kinds) or "none",
        "Rank": ", ".join(f"{rank} ({count} modules)" for rank, count in sorted(found.ranks.items())),
        "Strength": f"{', '.join(strengths)} (from {found.scale_source})" if strengths else "",
        "Trained": _trained(found),
        "Changes": ", ".join(f"{part.group} {part.adapted}/{part.there_are}" for part in found.coverage),
        "Norm": _norms(found),
        "Parents": ", ".join(
            f"{parent.name or parent.sha256[:12]} ({parent.weight:g})" for parent in found.metadata.parents
        ),
    }
    for label, value in rows.items():
        if value:
            table.add_row(label, escape(value))
    problems = {
        "Not numbers (NaN or infinity)": found.not_finite,
        "Keys of no module": found.unmatched,
        "Another shape than the base's": found.misshapen,
        "Tensors missing": found.incomplete,
    }
    parts: list[RenderableType] = [table]
    parts += [
        f"[bold red]{label}:[/bold red] {escape(names_text(names))}" for label, names in problems.items() if names
    ]
    parts += (
        ["", "[bold]Read as it is by[/bold]"] if found.readers else ["No program can use it on a base that is known."]
    )
    parts += [
        f"  {escape(reader.program)}{escape(f': {reader.note}') if reader.note else ''}" for reader in found.readers
    ]
    return parts


def _trained(found: Inspection) -> str:
    if (trained := found.metadata.trained) is None:
        return ""
    kind = ("rank-stabilised " if trained.rslora else "") + ("DoRA" if trained.dora else "LoRA")
    return f"as {kind} of rank {trained.rank} with alpha {trained.alpha:g}"


def _norms(found: Inspection) -> str:
    norms = [(module.norm, module.module) for module in found.modules if module.norm is not None]
    if not norms:
        return ""
    largest, where = max(norms)
    return f"{sum(norm**2 for norm, _ in norms) ** 0.5:.4g} in all; most in {where} ({largest:.3g})"


def _module_table(found: Inspection) -> Table:
    table = Table("Module", "Kind", "Rank", "Alpha", "Strength", "Norm", box=box.SIMPLE_HEAD)
    for module in found.modules:
        table.add_row(
            escape(module.module),
            module.kind,
            str(module.rank or ""),
            "" if module.alpha is None else f"{module.alpha:g}",
            f"{module.scale:g}",
            "" if module.norm is None else f"{module.norm:.3g}",
        )
    return table
