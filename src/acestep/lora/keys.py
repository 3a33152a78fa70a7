"""Names inside adapter files: which module a tensor belongs to and which part of its change it is.

A name is matched against the model's own module names, never taken apart at underscores, so that no pattern can land on
the wrong module: flattened names are looked up in a table made from the model's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

Role = str
"""A, B, mid, alpha, magnitude (of every output), dora_scale (as LyCORIS shapes it), or LoHa's and LoKr's own names."""

# What programs put before a module's name. PEFT's prefix is sometimes there twice, diffusers' comes after it.
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.diffusion_model.", "unet.", "decoder.")
_FLAT_PREFIXES = ("lora_unet_decoder_", "lora_unet_", "lycoris_decoder_", "lycoris_", "lora_transformer_")

# An adapter's own name may stand between the factor and `weight` (`lora_A.default.weight`).
_NAMED = r"(?:\.(?!weight$)[^.]+)?(?:\.weight)?"
_PATTERNS: tuple[tuple[Role | None, re.Pattern[str]], ...] = tuple(
    (role, re.compile(rf"(?P<module>.+?){suffix}"))
    for role, suffix in (
        ("A", rf"\.lora_A{_NAMED}"),
        ("B", rf"\.lora_B{_NAMED}"),
        ("A", r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)down\.weight"),
        ("B", r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)up\.weight"),
        ("mid", r"\.lora_mid\.weight"),
        ("magnitude", rf"\.lora_magnitude_vector{_NAMED}"),
        ("dora_scale", r"\.dora_scale"),
        ("alpha", r"\.alpha"),
        (None, r"\.(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))"),
    )
)
_OTHER_KINDS = {
    re.compile(r".+\.(oft|boft)_.+"): "OFT",
    re.compile(r".+\.[ab][12]\.weight"): "GLoRA",
    re.compile(r".+\.(diff|diff_b|w_norm|b_norm)"): "full difference",
    re.compile(r".+\.on_input"): "IA3",
}

NAMINGS = {
    "base_model.model.": "peft",
    "diffusion_model.": "comfyui",
    "model.diffusion_model.": "comfyui",
    "lora_unet_": "kohya",
    "lycoris_": "lycoris",
    "transformer.": "diffusers",
}
"""How a file's keys begin, and whose way of naming that is; keys without any of these are as the official ones."""


def parse_key(key: str) -> tuple[str, Role] | None:
    """(module name as the file has it, role); None for a key of another pattern."""
    for role, pattern in _PATTERNS:
        if found := pattern.fullmatch(key):
            return found["module"], role or found["role"]
    return None


class ModuleNames:
    """A model's module names, to be found under what programs make of them."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = frozenset(known)
        flattened = Counter(name.replace(".", "_") for name in known)
        # Two modules that flatten to one name cannot be told apart, so neither is guessed.
        self._flat = {flat: name for name in known if flattened[flat := name.replace(".", "_")] == 1}

    def resolve(self, name: str) -> str | None:
        """The model's own name for a module; None where it has no such module."""
        if (bare := without_prefixes(name, self._known)) is not None:
            return bare
        for prefix in _FLAT_PREFIXES:
            if name.startswith(prefix) and (found := self._flat.get(name.removeprefix(prefix))):
                return found
        return None


def without_prefixes(name: str, known: Collection[str] | None = None) -> str | None:
    """A dotted name without what programs put before it; with known names, the first that is one of them, or None.

    Without them, None for a flattened name: only a table can tell its dots from its underscores.
    """
    while known is None or name not in known:
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return name if known is None and not name.startswith(_FLAT_PREFIXES) else None
        name = name.removeprefix(prefix)
    return name


def naming_of(keys: Collection[str], known: Collection[str] = ()) -> str:
    """Whose way of naming most keys follow: acestep, peft, diffusers, comfyui, kohya or lycoris.

    A prefix that starts one of the model's own names says nothing.
    """
    own = tuple(prefix for prefix in NAMINGS if any(name.startswith(prefix) for name in known))
    votes = Counter(
        next((whose for prefix, whose in NAMINGS.items() if key.startswith(prefix) and prefix not in own), "acestep")
        for key in keys
    )
    return votes.most_common(1)[0][0] if votes else "acestep"


def other_kind(keys: Collection[str]) -> str | None:
    """The kind of adapter, if the keys tell that it is one that cannot be read."""
    return next((kind for mark, kind in _OTHER_KINDS.items() if any(map(mark.fullmatch, keys))), None)
