"""`acestep lora merge`, `methods`, `lineage`, `bake`, `extract`: adapters into one, into a base and out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from acestep.cli.lora_weights import parse_lora
from acestep.cli.options import DebugOption, ForceOption, JsonOption, ModelOption
from acestep.cli.reporting import Reporter, reporting
from acestep.wording import names_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from acestep.evaluation.merge_search import SearchResult
    from acestep.lora.low_rank import RankChoice
    from acestep.lora.merge import MergeReport
    from acestep.lora.metadata import Parent

LorasArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="LORA[:WEIGHT]...",
        help="LoRAs with their weights, as in ./vocal:0.7; without one 1, as trained.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.", show_default=False)]
DtypeOption = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]


def merge(
    loras: LorasArgument,
    out: OutOption,
    strategy: Annotated[
        str, typer.Option(help="How to merge; `acestep lora methods` tells of all.")
    ] = "weighted_average",
    rank: Annotated[
        str | None,
        typer.Option(help="A number, auto (99 % of every module's energy) or full; by default all ranks together."),
    ] = None,
    dtype: DtypeOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="The method's own, as in density=0.3.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=W,W", help="Weights in a group of modules, as in cross_attention=0.9,0.1."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Base model: v1, nano or a checkpoint folder; by default found out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the methods that draw.")] = 0,
    search: Annotated[
        list[Path] | None,
        typer.Option(
            "--search",
            metavar="FOLDER",
            help="Find the weights: a dataset folder that LoRA was not trained on, one for each LoRA in their order.",
        ),
    ] = None,
    model: ModelOption = "nano",
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a page about the merge, one file.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge LoRAs into one; what it cost and how much of each is left is told."""
    pairs = _weighted(loras)
    options, groups = _options(option or []), _groups(group or [])
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.merge import merge_loras
        from acestep.lora.output import check_output

        found = None
        if search:
            check_output(out, overwrite=force)
            if strategy not in ("weighted_average", "task_arithmetic") or groups:
                raise typer.BadParameter(
                    "weights are searched for weighted_average and task_arithmetic, without --group",
                    param_hint="--search",
                )
            found = _searched(reporter, model, pairs, search, average=strategy == "weighted_average")
            pairs = [(path, weight) for (path, _), weight in zip(pairs, found.weights, strict=True)]
        with reporter.progress("Merging") as progress:
            done = merge_loras(
                pairs,
                out,
                strategy=strategy,
                rank=_rank(rank),
                dtype=dtype,
                group_weights=groups,
                overwrite=force,
                seed=seed,
                base=base,
                measure=report is not None or as_json,
                progress=progress,
                **options,
            )
        machine = done.as_dict()
        lines = _told(done)
        if found is not None:
            machine["search"] = found.as_dict()
            losses = ", ".join(f"{source.name} {source.lost:+.1%}" for source in found.sources)
            lines.append(f"Held-out loss, beside each LoRA alone: {escape(losses)}")
        if report is not None:
            from acestep.evaluation.merge_page import write_merge_page

            machine["report"] = str(write_merge_page(done, report))
            lines.append(f"The page: [bold]{escape(str(report))}[/bold]")
        reporter.result(machine, *lines)


def methods(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Tell of the ways to merge and their options."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.merge import METHODS

        parts: list[RenderableType] = []
        for method in METHODS.values():
            defaults = ", ".join(f"{name}={value:g}" for name, value in method.options.items())
            parts.append(f"[bold]{method.name}[/bold]{f' ({defaults})' if defaults else ''}: {method.description}")
            parts.append(f"  [dim]{method.paper}[/dim]")
        machine = [
            {"name": m.name, "description": m.description, "paper": m.paper, "options": m.options}
            for m in METHODS.values()
        ]
        reporter.result({"methods": machine}, *parts)


def lineage(
    lora: Annotated[str, typer.Argument(metavar="LORA", help="A LoRA folder, file, hub id or official name.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw what a LoRA was merged from, and what those were."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.lineage import lineage as lineage_of

        found = lineage_of(lora)
        reporter.result(found.model_dump(mode="json"), _tree(found))


def bake(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A checkpoint folder, hub id or nano.")],
    loras: LorasArgument,
    out: OutOption,
    dtype: DtypeOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a checkpoint with LoRAs folded in, in the released layout."""
    pairs = _weighted(loras)
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.baking import bake as bake_in

        with reporter.progress("Writing") as progress:
            done = bake_in(base, pairs, out, dtype=dtype, overwrite=force, progress=progress)
        machine = {
            "path": str(done.path),
            "modules": done.modules,
            "rounding": done.rounding,
            "linked_files": done.linked,
            "loras": [{"name": p.name, "sha256": p.sha256, "weight": p.weight} for p in done.adapters],
        }
        names = ", ".join(f"{parent.name} ({parent.weight:g})" for parent in done.adapters)
        lines = [f"{escape(names)} in {done.modules} weights: [bold]{escape(str(done.path))}[/bold]"]
        if done.rounding > 0.01:
            lines.append(f"The weights' dtype rounds {done.rounding:.1%} of the change away; --dtype float32 keeps it.")
        reporter.result(machine, *lines)


def extract(
    finetuned: Annotated[str, typer.Argument(metavar="FINETUNED", help="A checkpoint folder or hub id.")],
    base: Annotated[str, typer.Argument(metavar="BASE", help="What it was made from.")],
    out: OutOption,
    rank: Annotated[str, typer.Option(help="A number, auto (99 % of every module's energy) or full.")] = "32",
    dtype: DtypeOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Get the LoRA that is nearest to what a fine-tuning changed; what it leaves out is told."""
    with reporting(as_json=as_json, debug=debug) as reporter:
        from acestep.lora.extraction import extract_adapter

        with reporter.progress("Comparing weights") as progress:
            done = extract_adapter(
                finetuned, base, out, rank=_rank(rank) or 32, dtype=dtype, overwrite=force, progress=progress
            )
        worst = max(done.modules, key=lambda module: module.energy_lost)
        lines = [
            f"{len(done.modules)} modules at rank {done.rank}: [bold]{escape(str(done.path))}[/bold]",
            f"{done.energy_lost:.2%} of the difference's energy is not in it,"
            f" most in {escape(worst.module)} ({worst.energy_lost:.2%}).",
        ]
        if done.left_out:
            lines.append(f"No LoRA can hold what differs in {escape(names_text(done.left_out))}.")
        reporter.result(done.as_dict(), *lines)


def _weighted(texts: list[str]) -> list[tuple[str | Path, float]]:
    """Paths and weights; without one 1, which is as trained. A file has no sections to be louder in."""
    pairs: list[tuple[str | Path, float]] = []
    for text in texts:
        lora = parse_lora(text)
        if lora.changes:
            raise typer.BadParameter(
                f"{text!r} changes with time or noise, and what is written cannot; give one weight"
            )
        pairs.append((lora.path, 1.0 if lora.weight is None else lora.weight))
    return pairs


def _searched(
    reporter: Reporter, model: str, pairs: Sequence[tuple[str | Path, float]], folders: Sequence[Path], *, average: bool
) -> SearchResult:
    """The weights that lose least on recordings of each LoRA's style."""
    from acestep.evaluation.merge_search import SearchedSource, search_weights
    from acestep.evaluation.recordings import read_held_out
    from acestep.families.loading import load_family
    from acestep.lora import module_shapes, read_adapter
    from acestep.lora.lineage import distinct_names

    if len(folders) != len(pairs):
        raise typer.BadParameter(
            f"there are {len(pairs)} LoRAs and {len(folders)} folders; give one a LoRA", param_hint="--search"
        )
    with reporter.progress("Reading recordings"):
        family = load_family(model)
        shapes, names = module_shapes(family.network), distinct_names([path for path, _ in pairs])
        sources = [
            SearchedSource(name, read_adapter(path, shapes), read_held_out(family, folder).clips)
            for name, (path, _), folder in zip(names, pairs, folders, strict=True)
        ]
    with reporter.progress("Searching weights") as progress:
        return search_weights(family, sources, sum_to_one=average, progress=progress)


def _rank(text: str | None) -> RankChoice | None:
    if text is None or text == "auto" or text == "full":
        return text  # type: ignore[return-value]
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is no rank; give a number from 1 up, auto or full", param_hint="--rank")
    return int(text)


def _options(texts: list[str]) -> dict[str, float]:
    """`density=0.3` to names and numbers."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is no option; write NAME=NUMBER, as in density=0.3", param_hint="--option"
            ) from None
    taken = {"strategy", "rank", "dtype", "group_weights", "overwrite", "seed", "base", "measure", "progress"}
    if wrong := sorted(taken & found.keys()):
        raise typer.BadParameter(f"{', '.join(wrong)} is no option of a method", param_hint="--option")
    return found


def _groups(texts: list[str]) -> dict[str, tuple[float, ...]]:
    """`cross_attention=0.9,0.1` to a group and its weights."""
    found = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            found[name.strip()] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} gives no weights; write GROUP=WEIGHT,WEIGHT, as in cross_attention=0.9,0.1",
                param_hint="--group",
            ) from None
    return found


def _told(done: MergeReport) -> list[RenderableType]:
    table = Table("LoRA", "Weight", "Kept", box=box.SIMPLE_HEAD)
    for parent, kept in zip(done.sources, done.kept, strict=True):
        table.add_row(escape(parent.name), f"{parent.weight:g}", f"{kept:.1%}")
    lost = f"{done.energy_lost:.2%} of the energy lost"
    if done.energy_lost > 0:
        lost += f", most in {escape(done.worst.module)} ({done.worst.energy_lost:.2%})"
    return [
        f"{len(done.modules)} modules at rank {done.rank}, {done.strategy}: [bold]{escape(str(done.path))}[/bold]",
        table,
        lost,
    ]


def _tree(root: Parent) -> Tree:
    tree = Tree(_described(root))
    _grow(tree, root, set())
    return tree


def _grow(branch: Tree, node: Parent, drawn: set[str]) -> None:
    """drawn: files whose parents were drawn already, and are told only there (`lineage.told_once`)."""
    for parent in node.parents:
        above = "  (as above)" if parent.sha256 in drawn and not parent.parents else ""
        if parent.parents:
            drawn.add(parent.sha256)
        _grow(branch.add(f"{parent.weight:g} x {_described(parent)}{above}"), parent, drawn)


def _described(node: Parent) -> str:
    given = ", ".join(f"{name} {value}" for name, value in node.options.items() if value is not None)
    made = escape(f"{node.method} ({given})" if given else node.method)
    return f"[bold]{escape(node.name or 'unnamed')}[/bold]  [dim]{made}  {escape(node.sha256[:12])}[/dim]"
