"""A HuBERT network small enough to hear a second of audio in a test, and its checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel

from acestep.families.base import RepresentationSource

SOURCE = RepresentationSource("small", "someone/small", sample_rate=16000, chunk_s=1.0, width=16)


def small_hubert(width: int = 16) -> HubertModel:
    config = HubertConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HubertModel(config)


def write_encoder(folder: Path, *, width: int = 16) -> Path:
    small_hubert(width).save_pretrained(folder)
    return folder
