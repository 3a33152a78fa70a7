"""Several adapters into one: read, combined module by module, cut to one rank, and written with its lineage.

Linear methods work on the factors alone and are exact to float32's rounding; so do those in shared space. Dense methods
hold the changes of one module at a time. Two rank-32 adapters of v1: see benchmarks/merging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from acestep.errors import AdapterError, CheckpointError
from acestep.lora.adapter import write_adapter
from acestep.lora.factors import Adapter, Factors
from acestep.lora.merge.combining import combine
from acestep.lora.merge.groups import WeightTable, checked_weights
from acestep.lora.merge.interference import measure_interference
from acestep.lora.merge.low_rank import KEPT_BY_AUTO, LowRank, RankChoice, inner_product
from acestep.lora.merge.methods import Method, find_method
from acestep.lora.merge.report import MergeReport, ModuleMerge
from acestep.lora.merge.settings import DTYPES, check_output, check_rank, checked_dtype
from acestep.lora.merge.sources import Source, Sources, checked_loras, read_sources
from acestep.lora.merge.threads import one_thread
from acestep.lora.metadata import AdapterMetadata

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
    modules = sources.modules
    weights = WeightTable([s.weight for s in sources.adapters], group_weights, sources.shapes or modules)
    for row in weights.of_groups():
        method.check_group(row)
    interference = measure_interference([(s.name, s.adapter) for s in sources.adapters], seed=seed) if measure else None
    merged = _combined(method, sources, weights, completed, rank, seed, progress)
    width = max(change.rank for change in merged.values())
    if rank == "auto":
        width = max(change.rank_keeping(KEPT_BY_AUTO) for change in merged.values())
    target = chosen or _widest(sources)
    with one_thread():
        factors, told = _cut(merged, sources.adapters, width, target)
    given = {
        **completed,
        "rank": rank,
        **({"seed": seed} if method.takes("draws") else {}),
        **({"group_weights": {k: list(v) for k, v in group_weights.items()}} if group_weights else {}),
    }
    adapter = Adapter(factors, _metadata(sources, method, given))
    check_output(output, overwrite=overwrite)
    try:
        write_adapter(output, adapter, dtype=target)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error}; is there room on the disk?") from error
    return MergeReport(
        path=output,
        strategy=method.name,
        options=given,
        rank=adapter.rank,
        dtype=target,
        sources=adapter.metadata.parents,
        modules=tuple(told.modules),
        kept=told.kept,
        energy_lost=told.energy_lost,
        base=sources.base,
        warnings=sources.warnings,
        interference=interference,
    )


@dataclass
class _Account:
    """What is told of the modules while they are cut."""

    modules: list[ModuleMerge] = field(default_factory=list)
    kept: tuple[float, ...] = ()
    energy_lost: float = 0.0


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
    modules = sources.modules

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
        return found.single() if found.rank else None

    merged: dict[str, LowRank] = {}
    with one_thread():
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


def _cut(
    merged: dict[str, LowRank], sources: Sequence[Source], width: int, dtype: torch.dtype
) -> tuple[dict[str, Factors], _Account]:
    """Factors of the file's rank, and what the cut cost. Empties `merged`, so that memory is needed once."""
    factors: dict[str, Factors] = {}
    told = _Account()
    inner, lost_energy, energy = torch.zeros(len(sources)), 0.0, sum(change.energy for change in merged.values())
    squares = [{name: own.product_norm() ** 2 for name, own in source.adapter.factors.items()} for source in sources]
    for module in tuple(merged):
        change = merged.pop(module)
        own = [source.adapter.factors.get(module) for source in sources]
        shape = next(found.delta_shape() for found in own if found is not None)
        lost, cut = change.lost(width), change.cut(width)
        made = cut.factors(shape)
        inner_here = [0.0 if found is None else inner_product(made, found) for found in own]
        wholes = [known.get(module, 0.0) for known in squares]
        kept = tuple(one / whole if whole else None for one, whole in zip(inner_here, wholes, strict=True))
        inner += torch.tensor(inner_here)
        lost_energy += lost * change.energy
        told.modules.append(ModuleMerge(module, cut.rank, lost, float(cut.values.double().norm()), kept))
        factors[module] = Factors(made.a.to(dtype), made.b.to(dtype))
        # Singular vectors have no number above 1, so this bounds both factors.
        if not float(cut.values[0].sqrt()) < torch.finfo(dtype).max:
            raise AdapterError(
                f"{module} is too large for {str(dtype).removeprefix('torch.')}: give smaller weights, or float32"
            )
    totals = [sum(known.values()) for known in squares]
    told.kept = tuple(one / whole if whole else 0.0 for one, whole in zip(inner.tolist(), totals, strict=True))
    told.energy_lost = lost_energy / energy
    return factors, told


def _metadata(sources: Sources, method: Method, options: Mapping[str, Any]) -> AdapterMetadata:
    """What the parents agree on, and the parents."""
    own = [source.adapter.metadata for source in sources.adapters]
    prints = {metadata.base_fingerprint for metadata in own}
    return AdapterMetadata(
        family=next((metadata.family for metadata in own if metadata.family), None),
        base_model=next((metadata.base_model for metadata in own if metadata.base_model), None),
        base_fingerprint=prints.pop() if len(prints) == 1 else None,
        parents=tuple(source.as_parent() for source in sources.adapters),
        method=method.name,
        options=dict(options),
    )


def _widest(sources: Sources) -> torch.dtype:
    """The narrowest dtype that holds what each file's does, of those that adapters are written in."""
    widest = reduce(torch.promote_types, (source.adapter.report.dtype for source in sources.adapters))
    return widest if widest in DTYPES.values() else torch.float32
