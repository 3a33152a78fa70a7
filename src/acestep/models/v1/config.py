"""Sizes of the v1 transformer, read from a checkpoint's `config.json` and, where that is silent, from its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from acestep.errors import CheckpointError

# The released code fixes these four numbers; small checkpoints state them in the config or show them in their shapes.
_RELEASED_LYRIC_ENCODER = {"output_size": 1024, "attention_heads": 16, "linear_units": 4096, "num_blocks": 6}
_PATCH_CHANNELS_PER_LATENT_CHANNEL = 256


@dataclass(frozen=True)
class TransformerConfig:
    """The v1 transformer in numbers; the names are those of the released `config.json`.

    The released `inner_dim` is not here: the model's width is heads times head width, whatever the file says.
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    in_channels: int = 8
    out_channels: int = 8
    patch_size: tuple[int, int] = (16, 1)
    patch_hidden_channels: int = 2048
    mlp_ratio: float = 2.5
    rope_theta: float = 1_000_000.0
    speaker_embedding_dim: int = 512
    text_embedding_dim: int = 768
    lyric_encoder_vocab_size: int = 6693
    lyric_hidden_size: int = 1024
    lyric_encoder_output_size: int = 1024
    lyric_encoder_attention_heads: int = 16
    lyric_encoder_linear_units: int = 4096
    lyric_encoder_num_blocks: int = 6
    lyric_encoder_dropout: float = 0.1
    ssl_names: tuple[str, ...] = ()
    ssl_encoder_depths: tuple[int, ...] = ()
    ssl_latent_dims: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def feed_forward_width(self) -> int:
        return int(self.width * self.mlp_ratio)

    @classmethod
    def from_dict(
        cls, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> TransformerConfig:
        """Read a `config.json`; keys that the model has no use for are passed over, as diffusers does.

        shapes: names and shapes of the checkpoint's tensors. A size missing from the config is taken from there, and
        from the released model where there are no shapes either. Raises CheckpointError when a needed key is absent.
        """
        values = {field.name: config[field.name] for field in fields(cls) if field.name in config}
        for name, size in _sizes_from_shapes(shapes or {}).items():
            values.setdefault(name, size)
        for name, size in _RELEASED_LYRIC_ENCODER.items():
            values.setdefault(f"lyric_encoder_{name}", size)
        values.setdefault("patch_hidden_channels", _PATCH_CHANNELS_PER_LATENT_CHANNEL * values.get("in_channels", 8))
        for name in ("patch_size", "ssl_names", "ssl_encoder_depths", "ssl_latent_dims"):
            if name in values:
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"the transformer's config.json is incomplete: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """What `config.json` should hold so that `from_dict` gives this config back."""
        return {"_class_name": "ACEStepTransformer2DModel", **asdict(self)}


def _sizes_from_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Sizes that a checkpoint's tensors betray: those of the lyric encoder, and the patch's channels."""
    found: dict[str, int] = {}
    if (units := shapes.get("lyric_encoder.encoders.0.feed_forward.w_1.weight")) is not None:
        found["lyric_encoder_linear_units"], found["lyric_encoder_output_size"] = units[0], units[1]
    if (bias := shapes.get("lyric_encoder.encoders.0.self_attn.pos_bias_u")) is not None:
        found["lyric_encoder_attention_heads"] = bias[0]
    layers = {name.split(".")[2] for name in shapes if name.startswith("lyric_encoder.encoders.")}
    if layers:
        found["lyric_encoder_num_blocks"] = len(layers)
    if (patch := shapes.get("proj_in.early_conv_layers.0.weight")) is not None:
        found["patch_hidden_channels"] = patch[0]
    return found
