"""The networks of ACE-Step v1: transformer, lyric encoder, music autoencoder, log-mel and vocoders."""

from acestep.models.v1.alignment_heads import AlignmentHeads, alignment_names
from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from acestep.models.v1.codec import MusicCodec
from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.encoded import CrossAttentionCache, EncodedConditioning
from acestep.models.v1.log_mel import MEL_PREFIX, LogMel, LogMelConfig
from acestep.models.v1.phase_vocoder import PhaseVocoder, PhaseVocoderConfig
from acestep.models.v1.transformer import ACEStepTransformer, unread_names
from acestep.models.v1.vocoder import Vocoder, VocoderConfig

__all__ = [
    "MEL_PREFIX",
    "ACEStepTransformer",
    "AlignmentHeads",
    "AutoencoderConfig",
    "CrossAttentionCache",
    "EncodedConditioning",
    "LogMel",
    "LogMelConfig",
    "MusicAutoencoder",
    "MusicCodec",
    "PhaseVocoder",
    "PhaseVocoderConfig",
    "TransformerConfig",
    "Vocoder",
    "VocoderConfig",
    "alignment_names",
    "unread_names",
]
