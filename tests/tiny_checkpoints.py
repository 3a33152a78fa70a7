"""The tiny reference checkpoints as modules, and how close two float32 implementations must be."""

from __future__ import annotations

from torch import Tensor

from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.transformer import ACEStepTransformer
from reference_data import load_golden, load_json

TRANSFORMER = "tiny/checkpoint/ace_step_transformer"
MODULES = 2e-5
GRADIENTS = 1e-4
MEL = 1e-5


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = MODULES) -> None:
    """Greatest difference relative to the expected tensor's greatest value, as the reference README measures it."""
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert difference <= tolerance, f"relative difference {difference:.2e}, allowed {tolerance:.0e}"


def load_transformer(folder: str = TRANSFORMER, *, ssl_heads: bool = False) -> ACEStepTransformer:
    weights = load_golden(f"{folder}/diffusion_pytorch_model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    model = ACEStepTransformer(
        TransformerConfig.from_dict(load_json(f"{folder}/config.json"), shapes), ssl_heads=ssl_heads
    )
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


def encode(model: ACEStepTransformer, golden: dict[str, Tensor], **options):  # type: ignore[no-untyped-def]
    """Encode the prompt that a forward golden holds."""
    names = ("encoder_text_hidden_states", "text_attention_mask", "speaker_embeds", "lyric_token_idx", "lyric_mask")
    return model.encode_conditioning(*(golden[f"in.{name}"] for name in names), **options)
