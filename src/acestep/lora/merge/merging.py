"""Several adapters into one: read, combined module by module, cut to one rank, and written with its lineage.

Linear methods work on the factors alone and are exact to float32's rounding; so do those in shared space. Dense methods
hold the changes of one module at a time. Two rank-32 adapters of v1: see benchmarks/merging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from acestep.errors import AdapterError
from acestep.lora.adapter import write_adapter
from acestep.lora.factors import Adapter, Factors
from acestep.lora.lineage import told_once
from acestep.lora.low_rank import KEPT_BY_AUTO, LowRank, RankChoice
from acestep.lora.merge.combining import combine
from acestep.lora.merge.cutting import cut
from acestep.lora.merge.groups import WeightTable, checked_weights
from acestep.lora.merge.interference import measure_interference
from acestep.lora.merge.methods import Method, find_method
from acestep.lora.merge.report import MergeReport
from acestep.lora.merge.settings import DTYPES, check_rank, checked_dtype
from acestep.lora.merge.shelf import Shelf
from acestep.lora.merge.sources import Source, Sources, checked_loras, read_sources
from acestep.lora.merge.threads import one_thread
from acestep.lora.metadata import AdapterMetadata
from acestep.lora.output import check_output, told_in_words

DEFAULT_STRATEGY = "weighted_average"

Progress = Callable[[int, int], None]


def merge_loras(
    loras: Sequence[tuple[str | Path, float]],
    output_path: str | Path,
    *,
    strategy: str = DEFAULT_STRATEGY,
    rank: RankChoice | None = None,
    dtype: torch.dtype | str | None = None,
    group_weights: Mapping[str, Sequence[float]] | None = None,
    overwrite: bool = False,
    seed: int = 0,
    base: str | Path | None = None,
    measure: bool = False,
    progress: Progress | None = None,
    **options: float,
) -> MergeReport:
    """Merge adapters (files, folders, hub ids or official names, each with its weight) into an adapter folder.

    rank: a number; "full", all there is, exact for linear methods; "auto", the smallest with which every module keeps
    99 % of its energy; None, the sum of the adapters' ranks, which is "full" for linear methods. group_weights: weights
    by group (`groups.GROUPS`) that replace the adapters' own there. dtype: None keeps the widest of the files. seed: of
    the methods that draw; base: None finds it out; measure: also how the adapters interfere. progress: hears (modules
    done, modules). options: the method's own (`methods.METHODS`).

    A module that an adapter does not change is one that it changes by zero. Raises InputError for settings that cannot
    be, AdapterError for adapters that do not go together, CheckpointError for files that cannot be read or written;
    nothing half-written is left.
    """
    method, output = find_method(strategy), Path(output_path)
    completed, chosen = method.complete(options), checked_dtype(dtype)
    check_rank(rank)
    pairs = checked_loras(loras)
    method.check(checked_weights([weight for _, weight in pairs]))
    check_output(output, overwrite=overwrite)

    with one_thread():
        sources = read_sources(pairs, base=base)
        weights = _weight_table(method, sources, group_weights)
        named = [(source.name, source.adapter) for source in sources.adapters]
        interference = measure_interference(named, seed=seed) if measure else None
        merged = _combined(method, sources, weights, completed, rank, seed, progress)
        target = chosen or _widest(sources)
        done = cut(merged, sources.adapters, _file_rank(merged, rank), target)
    given: dict[str, Any] = {**completed, "rank": rank}
    if method.takes("draws"):
        given["seed"] = seed
    if group_weights:
        given["group_weights"] = {group: list(row) for group, row in group_weights.items()}
    adapter = Adapter(done.factors, _metadata(sources, method, given))
    # Somebody may have written there in the meantime.
    check_output(output, overwrite=overwrite)
    with told_in_words(output):
        write_adapter(output, adapter, dtype=target)
    return MergeReport(
        path=output,
        strategy=method.name,
        options=given,
        rank=adapter.rank,
        dtype=target,
        sources=adapter.metadata.parents,
        modules=done.modules,
        kept=done.kept,
        energy_lost=done.energy_lost,
        base=sources.base,
        warnings=sources.warnings,
        interference=interference,
    )


def _weight_table(method: Method, sources: Sources, group_weights: Mapping[str, Sequence[float]] | None) -> WeightTable:
    own = [source.weight for source in sources.adapters]
    table = WeightTable(own, group_weights, sources.shapes or sources.modules)
    for row in table.of_groups():
        method.check_group(row)
    return table


def _file_rank(merged: Mapping[str, LowRank], rank: RankChoice | None) -> int:
    """All modules of a file have one; the others were cut already, or are to be kept whole."""
    if rank == "auto":
        return max(change.rank_keeping(KEPT_BY_AUTO) for change in merged.values())
    return max(change.rank for change in merged.values())


def _combined(
    method: Method,
    sources: Sources,
    weights: WeightTable,
    options: Mapping[str, float],
    rank: RankChoice | None,
    seed: int,
    progress: Progress | None,
) -> dict[str, LowRank]:
    """Every module's merged change, those left out that nobody changes; as float32, which is how they are written."""
    modules, shelf = sources.modules, Shelf()

    def of(module: str) -> LowRank | None:
        row = weights.of(module)
        there = [index for index, source in enumerate(sources.adapters) if module in source.adapter.factors]
        changes = [sources.adapters[index].adapter.factors[module] for index in there]
        if method.kind == "linear":
            # An average counts the adapters that leave a module alone.
            there, changes = list(range(len(row))), [_change(source, module, changes[0]) for source in sources.adapters]
        elif not bool(row[there].any()):
            return None
        seeds = [f"{seed} {module} {sources.adapters[index].sha256}" for index in there]
        found = combine(method, changes, row[there], options=options, rank=rank, seeds=seeds)
        kept = shelf.keep(found)
        return kept if kept.rank and float(kept.values[0]) > 0 else None

    merged: dict[str, LowRank] = {}
    for done, module in enumerate(modules, start=1):
        if (found := of(module)) is not None:
            merged[module] = found
        if progress is not None:
            progress(done, len(modules))
    if not merged:
        raise AdapterError("the merge changes nothing: the adapters cancel out, or are all zero; give other weights")
    return merged


def _change(source: Source, module: str, like: Factors) -> Factors:
    """A source's change; one of rank 1 that is zero where it has none."""
    found = source.adapter.factors.get(module)
    return found or Factors(torch.zeros_like(like.a[:1]), torch.zeros_like(like.b[:, :1]))


def _metadata(sources: Sources, method: Method, options: Mapping[str, Any]) -> AdapterMetadata:
    """What the parents agree on, and the parents."""
    own = [source.adapter.metadata for source in sources.adapters]
    prints = {metadata.base_fingerprint for metadata in own}
    return AdapterMetadata(
        family=next((metadata.family for metadata in own if metadata.family), None),
        base_model=next((metadata.base_model for metadata in own if metadata.base_model), None),
        base_fingerprint=prints.pop() if len(prints) == 1 else None,
        parents=told_once([source.as_parent() for source in sources.adapters]),
        method=method.name,
        options=dict(options),
    )


def _widest(sources: Sources) -> torch.dtype:
    """The narrowest dtype that holds what each file's does, of those that adapters are written in."""
    widest = reduce(torch.promote_types, (source.adapter.report.dtype for source in sources.adapters))
    return widest if widest in DTYPES.values() else torch.float32
