"""Which modules an adapter goes on, from the names that people know or the model's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

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


def target_names(modules: Collection[str], aliases: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """What can be written as a target: the aliases that this model has modules for, then the ends of its own names."""
    known = [
        alias
        for alias, suffixes in (aliases or {}).items()
        if any(_ends_with(name, suffix) for name in modules for suffix in suffixes)
    ]
    return known + sorted({_short(name) for name in modules})


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


def _missing_message(missing: Sequence[str], modules: Collection[str], aliases: Mapping[str, Sequence[str]]) -> str:
    names = target_names(modules, aliases)
    described = []
    for target in missing:
        close = get_close_matches(target, names, n=1)
        described.append(f"{target} (did you mean {close[0]}?)" if close else target)
    return f"no module of this model matches {', '.join(described)}; there are: {', '.join(names)}"
