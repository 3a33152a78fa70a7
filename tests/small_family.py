"""A family small enough to train in a test: a v1 transformer of two blocks, and encoders that are plain arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from acestep.diffusion.guidance import Branches
from acestep.errors import InputError
from acestep.families.base import Conditioning, EncoderFingerprints, Family, SamplingDefaults, TrainingNoise
from acestep.families.checkpoint import fingerprint
from acestep.models.v1.config import TransformerConfig
from acestep.models.v1.transformer import ACEStepTransformer

HOP = 4096
TEXT_WIDTH = 12
PROMPT_LIMIT = 200


class SmallFamily(Family):
    name = "small"
    sample_rate = 44100
    latent_rate = sample_rate / HOP
    sampling = SamplingDefaults()
    noise = TrainingNoise()
    lyric_modules = ("lyric_embs", "lyric_encoder")
    lora_aliases: Mapping[str, tuple[str, ...]] = {
        "q_proj": ("to_q",),
        "k_proj": ("to_k",),
        "v_proj": ("to_v",),
        "out_proj": ("to_out.0",),
        "fc1": ("ff.inverted_conv.conv",),
        "fc2": ("ff.point_conv.conv",),
    }

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = TransformerConfig(
                num_layers=2,
                num_attention_heads=2,
                attention_head_dim=8,
                patch_hidden_channels=32,
                speaker_embedding_dim=4,
                text_embedding_dim=TEXT_WIDTH,
                lyric_encoder_vocab_size=20,
                lyric_hidden_size=16,
                lyric_encoder_output_size=16,
                lyric_encoder_attention_heads=2,
                lyric_encoder_linear_units=24,
                lyric_encoder_num_blocks=1,
            )
            self.network: ACEStepTransformer = ACEStepTransformer(config).eval().requires_grad_(False)
            self.basis = torch.randn(8 * 16, 2)
        self.encoded_s = 0.0
        self.lyrics_encoded = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Family:
        self.network.to(device=device, dtype=dtype)
        return self

    def fingerprint(self) -> str:
        return fingerprint(self.network)

    def encoder_fingerprints(self) -> EncoderFingerprints:
        return EncoderFingerprints(hashlib.sha256(self.basis.numpy().tobytes()).hexdigest(), "words")

    def latent_frames(self, duration_s: float) -> int:
        return int(duration_s * self.latent_rate)

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Loudness of each frame and channel, spread over the latent's 128 numbers; the last frame is zero-padded."""
        self.encoded_s += audio.shape[-1] / self.sample_rate
        frames = -(-audio.shape[-1] // HOP)
        padded = torch.nn.functional.pad(audio, (0, frames * HOP - audio.shape[-1]))
        levels = padded.unflatten(-1, (frames, HOP)).square().mean(-1).sqrt()
        return torch.einsum("ld,bdf->blf", self.basis, levels).unflatten(1, (8, 16))

    def decode_latents(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_prompt(
        self, prompts: Sequence[str], lyrics: Sequence[str], *, weaken_text: bool = False
    ) -> Conditioning:
        rows = []
        for prompt, text in zip(prompts, lyrics, strict=True):
            if len(prompt) > PROMPT_LIMIT:
                raise InputError(f"the prompt has {len(prompt)} letters; {PROMPT_LIMIT} are the limit")
            words = prompt.split() or [""]
            ids = torch.tensor([[sum(line.encode()) % 19 + 1 for line in text.splitlines()] or [0]])
            rows.append(
                Conditioning(
                    text_states=torch.stack([_word_state(word) for word in words]).unsqueeze(0),
                    text_mask=torch.ones(1, len(words), dtype=torch.long),
                    speaker=torch.zeros(1, 4),
                    lyric_ids=ids,
                    lyric_mask=(ids != 0).long(),
                )
            )
        return Conditioning.stack(rows)

    def encode_lyrics(self, conditioning: Conditioning) -> Tensor:
        self.lyrics_encoded += conditioning.batch_size
        return self.network.encode_lyrics(conditioning.lyric_ids, conditioning.lyric_mask)

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        encoded = self.network.encode_conditioning(
            conditioning.text_states,
            conditioning.text_mask,
            conditioning.speaker,
            conditioning.lyric_ids,
            conditioning.lyric_mask,
            lyric_states=conditioning.lyric_states,
        )
        predicted: Tensor = self.network(latents, 1000 * sigmas, encoded)
        return predicted

    def branches(self, conditioning: Conditioning, **options: Any) -> Branches:
        raise NotImplementedError


def write_tone(
    path: Path, duration_s: float, *, frequency: float = 220.0, rate: int = 44100, channels: int = 2
) -> None:
    """A tone that swells, so that no two frames are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(duration_s * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * frequency * time) * (0.2 + 0.8 * time / max(duration_s, 1e-9))
    soundfile.write(str(path), np.stack([wave * (1 - 0.2 * c) for c in range(channels)], axis=1), rate)


def write_dataset(root: Path, tracks: int = 4, *, duration_s: float = 3.0) -> Path:
    """A dataset folder of tones, annotated by metadata.csv."""
    lines = ["filename,prompt,duration,genre,mood"]
    for index in range(tracks):
        write_tone(root / "audio" / f"track_{index:03}.wav", duration_s, frequency=110.0 * (index + 1))
        lines.append(f"track_{index:03}.wav,tone number {index},{duration_s},drone,calm")
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _word_state(word: str) -> Tensor:
    digest = hashlib.sha256(word.encode()).digest()[:TEXT_WIDTH]
    return torch.tensor([byte / 128 - 1 for byte in digest])
