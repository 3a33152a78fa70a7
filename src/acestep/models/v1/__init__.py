"""The networks of ACE-Step v1: transformer, lyric encoder, music autoencoder, vocoders."""

from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.encoded import CrossAttentionCache, EncodedConditioning
from acestep.models.v1.transformer import ACEStepTransformer, unread_names

__all__ = ["ACEStepTransformer", "CrossAttentionCache", "EncodedConditioning", "TransformerConfig", "unread_names"]
