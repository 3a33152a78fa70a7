"""Module names and weight shapes of known base models, without their weights: what an adapter file is held against.

They are worked out from the config. Building the network on torch's meta device would tell as much and take seconds,
nearly all of them for what torch imports then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from acestep.families.checkpoint import read_config, read_shapes
from acestep.families.hub import NANO, V1_HUB_ID, find_checkpoint
from acestep.lora.factorisation import change_shape, kind_of
from acestep.lora.keys import ModuleNames, Role, parse_key
from acestep.lora.tensor_file import TensorEntry
from acestep.models.v1 import TransformerConfig

ModuleShapes = dict[str, tuple[int, ...]]

KNOWN_BASES = ("v1", NANO)
"""Told apart by their module names and shapes, so that nobody needs to say which one a file is for."""

_TIME_FEATURES = 256
# The numbers of the released config.json; the others are TransformerConfig's own.
_RELEASED = {"num_layers": 24, "num_attention_heads": 20, "attention_head_dim": 128}


def base_shapes(base: str | Path) -> ModuleShapes:
    """Weight shapes of what can be adapted, by module name, for "v1", its hub id, "nano" or a checkpoint's folder.

    Raises what `find_checkpoint` raises, and CheckpointError for a folder that cannot be read.
    """
    return dict(_shapes(str(base)))


def guess_base(entries: Mapping[str, TensorEntry]) -> str | None:
    """The known base on which most of a file's modules fit, by name and shape; None where none does."""
    fitting = {base: count_fitting(entries, base_shapes(base)) for base in KNOWN_BASES}
    best = max(fitting, key=lambda base: fitting[base])
    return best if fitting[best] else None


def count_fitting(entries: Mapping[str, TensorEntry], shapes: Mapping[str, Sequence[int]]) -> int:
    """How many modules of a file have the shape that the base's own have."""
    names = ModuleNames(shapes)
    parts: dict[str, dict[Role, tuple[int, ...]]] = {}
    for key, entry in entries.items():
        parsed = parse_key(key)
        module = None if parsed is None else names.resolve(parsed[0])
        if parsed is not None and module is not None:
            parts.setdefault(module, {})[parsed[1]] = entry.shape
    return sum(fits(found, shapes[module]) for module, found in parts.items())


def fits(parts: Mapping[Role, Sequence[int]], weight: Sequence[int]) -> bool:
    """Whether parts of these shapes change a weight of that shape; axes of length one at the end do not count."""
    kind = kind_of(parts)
    change = None if kind is None else change_shape(kind, parts)
    return change is not None and _plain(change) == _plain(weight)


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    kept = list(shape)
    while len(kept) > 2 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


@lru_cache(maxsize=8)
def _shapes(base: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    if base in ("v1", V1_HUB_ID):
        config = TransformerConfig.from_dict(_RELEASED)
    else:
        folder = find_checkpoint(base) / "ace_step_transformer"
        weights = folder / "diffusion_pytorch_model.safetensors"
        config = TransformerConfig.from_dict(read_config(folder / "config.json"), read_shapes(weights))
    return tuple(_transformer_shapes(config).items())


def _transformer_shapes(config: TransformerConfig) -> ModuleShapes:
    """As `attach.module_shapes` of an ACEStepTransformer, in another order."""
    width, lyric, units = config.width, config.lyric_encoder_output_size, config.lyric_encoder_linear_units
    inner, hidden, patch = config.feed_forward_width, config.patch_hidden_channels, config.patch_size
    shapes: ModuleShapes = {
        "proj_in.early_conv_layers.0": (hidden, config.in_channels, *patch),
        "proj_in.early_conv_layers.2": (width, hidden, 1, 1),
        "timestep_embedder.linear_1": (width, _TIME_FEATURES),
        "timestep_embedder.linear_2": (width, width),
        "t_block.1": (6 * width, width),
        "speaker_embedder": (width, config.speaker_embedding_dim),
        "genre_embedder": (width, config.text_embedding_dim),
        "lyric_encoder.embed.out.0": (lyric, config.lyric_hidden_size),
        "lyric_proj": (width, lyric),
        "final_layer.linear": (config.out_channels * patch[0] * patch[1], width),
    }
    for layer in range(config.lyric_encoder_num_blocks):
        name = f"lyric_encoder.encoders.{layer}"
        shapes |= {f"{name}.self_attn.linear_{end}": (lyric, lyric) for end in ("q", "k", "v", "out", "pos")}
        shapes |= {f"{name}.feed_forward.w_1": (units, lyric), f"{name}.feed_forward.w_2": (lyric, units)}
    for block in range(config.num_layers):
        name = f"transformer_blocks.{block}"
        for attention in ("attn", "cross_attn"):
            shapes |= {f"{name}.{attention}.{end}": (width, width) for end in ("to_q", "to_k", "to_v", "to_out.0")}
        shapes[f"{name}.ff.inverted_conv.conv"] = (2 * inner, width, 1)
        shapes[f"{name}.ff.point_conv.conv"] = (width, inner, 1)
    return shapes
