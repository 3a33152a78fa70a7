"""A base model as the rest of acestep sees it: what a family offers, so that nobody needs to ask which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from acestep.diffusion.guidance import Branches, GuidanceName
from acestep.errors import MissingWeightsError
from acestep.models.quantization import Quantization, QuantizationReport, quantize_network

SchedulerName = Literal["euler", "heun", "pingpong"]
ErgName = Literal["tag", "lyric", "diffusion"]


@dataclass(frozen=True)
class SamplingDefaults:
    """What the pipeline uses where the caller gives None."""

    steps: int = 60
    guidance_scale: float = 15.0
    scheduler: SchedulerName = "euler"
    guidance: GuidanceName = "apg"
    guidance_interval: float = 0.5
    guidance_interval_decay: float = 0.0
    min_guidance_scale: float = 3.0
    omega_scale: float = 10.0
    erg: tuple[ErgName, ...] = ("tag", "lyric", "diffusion")


@dataclass(frozen=True)
class TrainingNoise:
    """How a family was trained: the shift of its noise levels, and how often conditioning is dropped."""

    shift: float = 3.0
    text_dropout: float = 0.15
    speaker_dropout: float = 0.5
    lyric_dropout: float = 0.15


@dataclass(frozen=True)
class Conditioning:
    """Prompt, lyrics and speaker as tensors, before any part of the network that an adapter may change.

    text_states: (batch, tokens, text width); text_mask: (batch, tokens) of 0 and 1; speaker: (batch, speaker width);
    lyric_ids: (batch, lyric tokens) int64; lyric_mask: (batch, lyric tokens) of 0 and 1; weakened_text_states: as
    text_states, from the text encoder with weakened queries, only where ERG asks for them; lyric_states: (batch, lyric
    tokens, lyric width), what `Family.encode_lyrics` makes of the ids, only where training computed it once.
    """

    text_states: Tensor
    text_mask: Tensor
    speaker: Tensor
    lyric_ids: Tensor
    lyric_mask: Tensor
    weakened_text_states: Tensor | None = None
    lyric_states: Tensor | None = None

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """On `device`, floating tensors in `dtype`."""
        return replace(self, **{name: _move(value, device, dtype) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by field name: what a cache stores."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in present.items() if value is not None}

    @property
    def batch_size(self) -> int:
        return self.text_states.shape[0]

    @staticmethod
    def stack(items: Sequence[Conditioning]) -> Conditioning:
        """One batch from several, padded with masked zeros to the longest; optional states only where all have them."""
        names = set(items[0].tensors()).intersection(*(item.tensors() for item in items))
        padded = {name: _pad_rows([item.tensors()[name] for item in items]) for name in names}
        return Conditioning(**padded)


@dataclass(frozen=True)
class EncoderFingerprints:
    """What a cache of encoded recordings and prompts depends on, besides their content."""

    audio: str
    text: str


@dataclass(frozen=True)
class RepresentationSource:
    """An encoder of recordings whose states a base's network was trained to foretell.

    chunk_s: how much of a recording it hears at once; width: of its states.
    """

    name: str
    hub_id: str
    sample_rate: int
    chunk_s: float
    width: int


class Family(ABC):
    """A base model: audio to latents and back, text to conditioning, velocity from noisy latents,
    and what its training needs to know.
    """

    name: str
    sample_rate: int
    latent_rate: float
    """Latent frames a second."""
    sampling: SamplingDefaults
    noise: TrainingNoise
    lora_aliases: Mapping[str, tuple[str, ...]]
    """The field's names for what LoRA adapts (q_proj, fc1, ...) -> suffixes of this family's module names."""
    network: nn.Module
    """What predicts velocity, and what adapters attach to."""
    lyric_modules: tuple[str, ...] = ()
    """Names of the network's modules that make lyric states of lyric ids, with all that is below them. Where nothing of
    them is trained, training runs `encode_lyrics` once a song; () says that this family has no such states."""

    alignment_weight: float = 1.0
    """Of the representation-alignment losses beside the denoising loss, as the base was trained."""

    @property
    def representation_sources(self) -> tuple[RepresentationSource, ...]:
        """What the base's alignment heads foretell, one a head; () where it has no heads."""
        return ()

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Family:
        """Move all parts in place and return self."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 over the network's base weights as loaded, before any quantisation; every adapter records it."""

    def quantize(self, kind: Quantization, *, device: torch.device | str | None = None) -> QuantizationReport:
        """Keep the weights of the network's blocks in int8 or nf4 from now on (models/quantization.py).

        Families remember their fingerprint, so adapters go on naming the base by its own weights.
        """
        self.fingerprint()
        return quantize_network(self.network, kind, device=device)

    @abstractmethod
    def encoder_fingerprints(self) -> EncoderFingerprints:
        """sha256 over what encodes audio, and over what encodes prompts and lyrics."""

    @abstractmethod
    def latent_frames(self, duration_s: float) -> int:
        """How many latent frames a song of that duration has."""

    @abstractmethod
    def encode_audio(self, audio: Tensor) -> Tensor:
        """audio: (batch, 2, samples) at `sample_rate`, in [-1, 1] -> latents (batch, 8, 16, frames) float32."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """latents: (batch, 8, 16, frames) -> audio (batch, 2, samples) float32 at `sample_rate`."""

    @abstractmethod
    def encode_prompt(
        self, prompts: Sequence[str], lyrics: Sequence[str], *, weaken_text: bool = False
    ) -> Conditioning:
        """Prompts and lyrics, one of each a song; InputError names the limit where one is too long."""

    def encode_lyrics(self, conditioning: Conditioning) -> Tensor:
        """What `Conditioning.lyric_states` holds, from its ids and mask; only families with `lyric_modules` have it."""
        raise NotImplementedError(f"{self.name} has no lyric states of their own")

    @abstractmethod
    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        """For training: differentiable through the whole network. sigmas: (batch,) in [0, 1] -> as latents."""

    @contextmanager
    def encoders_on(self, device: torch.device | str) -> Iterator[None]:
        """Within the block, keep what turns audio and words into tensors and back on `device`; families without such
        parts do nothing.

        v1's take 1.6 GB of a GPU, which no training step needs.
        """
        yield

    def load_alignment_heads(self) -> None:
        """Read the heads that `velocity_with_alignment` needs; MissingWeightsError where the base has none."""
        raise MissingWeightsError(f"{self.name} has no alignment heads")

    def velocity_with_alignment(
        self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`velocity`, and what each head foretells, (batch, frames, width) each, for diffusion/alignment.py."""
        raise NotImplementedError(f"{self.name} has no alignment heads")

    @abstractmethod
    def branches(
        self,
        conditioning: Conditioning,
        *,
        erg: Sequence[ErgName] = (),
        text_only: bool = False,
        masked_null: bool = False,
    ) -> Branches:
        """For generation: denoisers with all that stays the same over a song's steps computed once.

        text_only: a third branch without lyrics, for double guidance; masked_null: the null branch's lyrics are masked
        too, as flow edit wants it.
        """


def drop_conditioning(conditioning: Conditioning, *, text: Tensor, speaker: Tensor, lyrics: Tensor) -> Conditioning:
    """Null parts of the conditioning where the (batch,) booleans say so, as v1 was trained.

    Dropped text keeps its mask; dropped lyrics lose theirs, so whatever lyric states they have count for nothing.
    """
    keep_text, keep_speaker, keep_lyrics = ~text, ~speaker, ~lyrics
    return replace(
        conditioning,
        text_states=conditioning.text_states * keep_text.view(-1, 1, 1),
        speaker=conditioning.speaker * keep_speaker.view(-1, 1),
        lyric_ids=conditioning.lyric_ids * keep_lyrics.view(-1, 1),
        lyric_mask=conditioning.lyric_mask * keep_lyrics.view(-1, 1),
    )


def _move(value: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    return value.to(device, dtype if value.is_floating_point() else None)


def _pad_rows(batches: Sequence[Tensor]) -> Tensor:
    return pad_sequence([row for batch in batches for row in batch], batch_first=True)
