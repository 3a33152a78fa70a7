"""Which modules an adapter goes on, from the names that people know or the model's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from acestep.errors import AdapterError


def find_targets(
    modules: Collection[str], targets: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Names of the modules that `targets` mean, in the model's order.

    modules: what can be adapted, from `attach.module_shapes`; a target is an alias (q_proj), the end of a module's name
    (attn.to_q) or the whole of it. Raises AdapterError for targets that match nothing, with what there is.
    """
    aliases = aliases or {}
    chosen: set[str] = set()
    missing: list[str] = []
    for target in targets:
        suffixes = aliases.get(target, (target,))
        matches = {name for name in modules if any(_ends_with(name, suffix) for suffix in suffixes)}
        if not matches:
            missing.append(target)
        chosen |= matches
    if missing:
        raise AdapterError(_missing_message(missing, modules, aliases))
    return [name for name in modules if name in chosen]


def find_ranks(
    modules: Sequence[str], patterns: Mapping[str, int], aliases: Mapping[str, Sequence[str]] | None = None
) -> dict[str, int]:
    """Ranks by whole module names, from a user's `{"to_q": 64, "cross_attn": 16, "transformer_blocks.0": 8}`.

    modules: those that are adapted. A pattern is an alias (q_proj) or a run of whole parts of a name, wherever in it;
    `*` stands for any text within a part. Where several match, the one written last decides. Modules that none matches
    are left out. Raises AdapterError for patterns that match nothing, with what there is.
    """
    aliases = aliases or {}
    found: dict[str, int] = {}
    missing: list[str] = []
    for pattern, rank in patterns.items():
        runs = aliases.get(pattern, (pattern,))
        matches = [name for name in modules if any(_has_run(name, run) for run in runs)]
        if not matches:
            missing.append(pattern)
        found |= dict.fromkeys(matches, rank)
    if missing:
        raise AdapterError(_missing_message(missing, modules, aliases, what="adapted module"))
    return {name: found[name] for name in modules if name in found}


def target_names(modules: Collection[str], aliases: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """What can be written as a target: the aliases that this model has modules for, then the ends of its own names."""
    known = [
        alias
        for alias, suffixes in (aliases or {}).items()
        if any(_ends_with(name, suffix) for name in modules for suffix in suffixes)
    ]
    return known + sorted({_short(name) for name in modules})


def _has_run(name: str, run: str) -> bool:
    """Whether the parts of `run` follow each other among the parts of `name`."""
    parts, wanted = name.split("."), run.split(".")
    starts = range(len(parts) - len(wanted) + 1)
    return any(all(map(fnmatchcase, parts[start:], wanted)) for start in starts)


def _ends_with(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _short(name: str) -> str:
    """The end of a name from its last part that is no number: `to_out.0`, `conv`, `linear_q`."""
    parts = name.split(".")
    start = max(index for index, part in enumerate(parts) if not part.isdigit())
    # `conv` alone says little where every convolution sits one level down.
    if parts[start] == "conv" and start > 0:
        start -= 1
    return ".".join(parts[start:])


def _missing_message(
    missing: Sequence[str],
    modules: Collection[str],
    aliases: Mapping[str, Sequence[str]],
    *,
    what: str = "module of this model",
) -> str:
    names = target_names(modules, aliases)
    described = []
    for target in missing:
        close = get_close_matches(target, names, n=1)
        described.append(f"{target} (did you mean {close[0]}?)" if close else target)
    return f"no {what} matches {', '.join(described)}; there are: {', '.join(names)}"
