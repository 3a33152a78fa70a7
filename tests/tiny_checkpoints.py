"""The tiny reference checkpoints as modules, and how close two float32 implementations must be."""

from __future__ import annotations

from torch import Tensor

from acestep.models.v1.alignment_heads import AlignmentHeads
from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from acestep.models.v1.codec import MusicCodec
from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.log_mel import MEL_PREFIX, LogMel, LogMelConfig
from acestep.models.v1.transformer import ACEStepTransformer
from acestep.models.v1.vocoder import Vocoder, VocoderConfig
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


def load_transformer(folder: str = TRANSFORMER) -> ACEStepTransformer:
    weights = load_golden(f"{folder}/diffusion_pytorch_model.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    model = ACEStepTransformer(TransformerConfig.from_dict(load_json(f"{folder}/config.json"), shapes))
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


def load_alignment_heads() -> AlignmentHeads:
    weights = load_golden(f"{TRANSFORMER}/diffusion_pytorch_model.safetensors")
    heads = AlignmentHeads(load_transformer().config)
    heads.load_state_dict({name: weights[name] for name in heads.state_dict()})
    return heads


def encode(model: ACEStepTransformer, golden: dict[str, Tensor], **options):  # type: ignore[no-untyped-def]
    """Encode the prompt that a forward golden holds."""
    names = ("encoder_text_hidden_states", "text_attention_mask", "speaker_embeds", "lyric_token_idx", "lyric_mask")
    return model.encode_conditioning(*(golden[f"in.{name}"] for name in names), **options)


def load_autoencoder() -> MusicAutoencoder:
    config = AutoencoderConfig.from_dict(load_json("tiny/checkpoint/music_dcae_f8c8/config.json"))
    model = MusicAutoencoder(config)
    model.load_state_dict(load_golden("tiny/checkpoint/music_dcae_f8c8/diffusion_pytorch_model.safetensors"))
    return model.eval()


def load_vocoder() -> tuple[Vocoder, LogMel]:
    """The vocoder, and the log-mel whose window and filters lie in the same file."""
    config = load_json("tiny/checkpoint/music_vocoder/config.json")
    weights = load_golden("tiny/checkpoint/music_vocoder/diffusion_pytorch_model.safetensors")
    vocoder, log_mel = Vocoder(VocoderConfig.from_dict(config)), LogMel(LogMelConfig.from_dict(config))
    vocoder.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith(MEL_PREFIX)})
    log_mel.load_state_dict({name: weights[MEL_PREFIX + name] for name in log_mel.state_dict()})
    return vocoder.eval(), log_mel


def load_codec() -> MusicCodec:
    vocoder, log_mel = load_vocoder()
    return MusicCodec(load_autoencoder(), log_mel, vocoder)
