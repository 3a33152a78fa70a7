"""The v1 family: ACE-Step v1's transformer, text encoder, lyric tokenizer and codec behind the family's contract.

nano is a member: the same networks, small, with its own defaults in `family.json`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from acestep.conditioning.lyric_tokenizer import LyricTokenizer
from acestep.conditioning.text_encoder import TextEncoder
from acestep.conditioning.vocabulary import find_vocabulary
from acestep.diffusion.guidance import Branches
from acestep.errors import CheckpointError, InputError, MissingWeightsError
from acestep.families.base import (
    Conditioning,
    EncoderFingerprints,
    ErgName,
    Family,
    RepresentationSource,
    SamplingDefaults,
    TrainingNoise,
)
from acestep.families.checkpoint import fingerprint, load_weights, read_config, read_shapes, without_values
from acestep.models.quantization import Quantization
from acestep.models.v1 import (
    ACEStepTransformer,
    AlignmentHeads,
    EncodedConditioning,
    TransformerConfig,
    alignment_names,
    unread_names,
)
from acestep.models.v1.autoencoder import AutoencoderConfig, MusicAutoencoder
from acestep.models.v1.codec import MusicCodec
from acestep.models.v1.log_mel import MEL_PREFIX, LogMel, LogMelConfig
from acestep.models.v1.phase_vocoder import PhaseVocoder, PhaseVocoderConfig
from acestep.models.v1.vocoder import Vocoder, VocoderConfig

SAMPLES_PER_FRAME = 4096
"""512 samples a mel frame, 8 mel frames a latent frame."""
ERG_FACTOR = 0.01
ERG_LYRIC_LAYERS = (4, 5)
ERG_BLOCKS = (15, 16, 17, 18, 19)

REPRESENTATIONS = {"mert": ("m-a-p/MERT-v1-330M", 24000, 5.0), "m-hubert": ("utter-project/mHuBERT-147", 16000, 30.0)}
"""What v1's heads foretell, by the config's names: hub id, sample rate, seconds heard at once."""

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_TRANSFORMER = "ace_step_transformer"


class V1Family(Family):
    """A v1 checkpoint in memory. Networks are frozen and in eval mode; training changes only what it attaches."""

    sample_rate = 44100
    latent_rate = sample_rate / SAMPLES_PER_FRAME
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

    def __init__(
        self,
        network: ACEStepTransformer,
        codec: MusicCodec,
        text_encoder: TextEncoder,
        load_lyric_tokenizer: Callable[[], LyricTokenizer],
        *,
        name: str = "v1",
        sampling: SamplingDefaults | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        """load_lyric_tokenizer: called for the first song that has words; those without need no vocabulary.

        checkpoint: where `load_alignment_heads` looks.
        """
        self.name = name
        defaults = sampling or SamplingDefaults()
        # By default a small checkpoint gets what it is deep enough for; asking for more is an error.
        possible = tuple(option for option in defaults.erg if _layers_missing(option, network.config) == 0)
        self.sampling = replace(defaults, erg=possible)
        self.network: ACEStepTransformer = network.eval().requires_grad_(False)
        self.codec = codec.eval().requires_grad_(False)
        self.text_encoder = text_encoder
        self._load_lyric_tokenizer = load_lyric_tokenizer
        self._checkpoint = checkpoint
        self._heads: AlignmentHeads | None = None
        self._fingerprint: str | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        quantization: Quantization | None = None,
    ) -> V1Family:
        """Read a checkpoint folder of the released layout; weights the forward pass never reads stay on disk.

        `dtype` is that of the transformer and the text encoder. The codec stays in float32: it is 8 % of the weights
        and its log-mel loses audible detail in 16 bits. quantization: of the transformer's blocks, one weight at a time
        on its way to the device, which never holds more than one of them whole.
        """
        settings = read_config(folder / "family.json") if (folder / "family.json").is_file() else {}
        family = cls(
            load_transformer(folder, dtype=dtype),
            load_codec(folder),
            TextEncoder.from_folder(folder / "umt5-base", dtype=dtype or torch.float32),
            lambda: LyricTokenizer(find_vocabulary(folder)),
            name=settings.get("name", "v1"),
            sampling=_sampling(settings.get("sampling", {}), folder),
            checkpoint=folder,
        )
        if quantization is not None:
            family.quantize(quantization, device=device)
        return family.to(device)

    @cached_property
    def lyric_tokenizer(self) -> LyricTokenizer:
        """Raises MissingWeightsError where the vocabulary is not here and cannot be fetched."""
        return self._load_lyric_tokenizer()

    @property
    def device(self) -> torch.device:
        return self.network.final_layer.scale_shift_table.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> V1Family:
        self.network.to(device=device, dtype=dtype)
        self.text_encoder.to(device=device, dtype=dtype)
        self.codec.to(device=device)
        if self._heads is not None:
            self._heads.to(device=device, dtype=dtype)
        return self

    @contextmanager
    def encoders_on(self, device: torch.device | str) -> Iterator[None]:
        before = self._codec_device
        self._move_encoders(device)
        try:
            yield
        finally:
            self._move_encoders(before)

    def _move_encoders(self, device: torch.device | str) -> None:
        self.text_encoder.to(device=device)
        self.codec.to(device=device)

    @property
    def _codec_device(self) -> torch.device:
        return next(self.codec.parameters()).device

    def fingerprint(self) -> str:
        # Computed once: nothing changes the base after loading, and 3.3 billion numbers take seconds to hash.
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.network)
        return self._fingerprint

    def encoder_fingerprints(self) -> EncoderFingerprints:
        try:
            words = self.lyric_tokenizer.fingerprint()
        except MissingWeightsError:
            words = "none"  # songs without words can be encoded without a vocabulary
        text = f"{fingerprint(self.text_encoder.module)} {self.text_encoder.tokenizer_fingerprint()} {words}"
        return EncoderFingerprints(fingerprint(self.codec), hashlib.sha256(text.encode()).hexdigest())

    def latent_frames(self, duration_s: float) -> int:
        return int(duration_s * self.sample_rate / 512 / 8)

    @torch.no_grad()
    def encode_audio(self, audio: Tensor) -> Tensor:
        return self.codec.encode(audio.to(self._codec_device, torch.float32))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.codec.decode(latents.to(self._codec_device, torch.float32))

    @torch.no_grad()
    def encode_prompt(
        self, prompts: Sequence[str], lyrics: Sequence[str], *, weaken_text: bool = False
    ) -> Conditioning:
        for prompt in prompts:
            self.text_encoder.check_length(prompt)
        states, text_mask = self.text_encoder.encode(list(prompts))
        weakened = self.text_encoder.encode(list(prompts), weaken_queries=True)[0] if weaken_text else None
        # A song without words has one masked token, as released.
        rows = [torch.tensor(self.lyric_tokenizer.encode(text) if text.strip() else [0]) for text in lyrics]
        ids = pad_sequence(rows, batch_first=True)
        return Conditioning(
            text_states=states.to(self.device),
            text_mask=text_mask.to(self.device),
            speaker=torch.zeros(len(rows), self.network.config.speaker_embedding_dim, device=self.device),
            lyric_ids=ids.to(self.device),
            lyric_mask=(ids != 0).long().to(self.device),
            weakened_text_states=None if weakened is None else weakened.to(self.device),
        )

    @torch.no_grad()
    def encode_lyrics(self, conditioning: Conditioning) -> Tensor:
        return self.network.encode_lyrics(conditioning.lyric_ids, conditioning.lyric_mask)

    def velocity(self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.network(latents, 1000 * sigmas, self._encode(conditioning))
        return predicted

    @property
    def representation_sources(self) -> tuple[RepresentationSource, ...]:
        config = self.network.config
        return tuple(
            RepresentationSource(name, *REPRESENTATIONS[name], width)
            for name, width in zip(config.ssl_names, config.ssl_latent_dims, strict=True)
        )

    def load_alignment_heads(self) -> None:
        if self._heads is not None:
            return
        path = None if self._checkpoint is None else self._checkpoint / _TRANSFORMER / _WEIGHTS
        stored = read_shapes(path).keys() if path is not None else set()
        if path is None or not self.representation_sources or not stored & set(alignment_names(self.network.config)):
            raise MissingWeightsError(f"{self.name} has no alignment heads")
        with without_values():
            heads = AlignmentHeads(self.network.config)
        load_weights(heads, path, dtype=self.dtype, unread=stored)
        self._heads = heads.eval().requires_grad_(False).to(self.device)

    def velocity_with_alignment(
        self, latents: Tensor, sigmas: Tensor, conditioning: Conditioning
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self._heads is None:
            raise MissingWeightsError(f"the alignment heads of {self.name} are not loaded; call load_alignment_heads()")
        velocity, states = self.network.forward_with_states(
            latents, 1000 * sigmas, self._encode(conditioning), depths=self._heads.depths
        )
        return velocity, self._heads(states)

    def _encode(self, conditioning: Conditioning) -> EncodedConditioning:
        """For training: every example as it would be alone, whatever padding its batch gave it."""
        encoded = self.network.encode_conditioning(
            conditioning.text_states,
            conditioning.text_mask,
            conditioning.speaker,
            conditioning.lyric_ids,
            conditioning.lyric_mask,
            lyric_states=conditioning.lyric_states,
        )
        if conditioning.batch_size == 1:
            return encoded  # never padded
        text, lyrics = _up_to_last(conditioning.text_mask), _up_to_last(conditioning.lyric_mask)
        return encoded.packed(torch.cat([torch.ones_like(text[:, :1]), text, lyrics], dim=1))

    def branches(
        self,
        conditioning: Conditioning,
        *,
        erg: Sequence[ErgName] = (),
        text_only: bool = False,
        masked_null: bool = False,
    ) -> Branches:
        """ERG weakens attention in the null pass, so that guidance points away from a blurred song (options of v1's
        release).

        InputError where the network is too shallow for the layers that an option weakens.
        """
        self._check_erg(erg)
        network = self.network
        null = _null(conditioning, erg)
        if masked_null:
            null = replace(null, lyric_mask=torch.zeros_like(null.lyric_mask))
        parts = [conditioning, null]
        if text_only:
            text_part = replace(conditioning, speaker=torch.zeros_like(conditioning.speaker))
            parts.append(text_part if "lyric" in erg else _without_lyrics(text_part))
        lyric_scales = [None, *([_lyric_weakening(erg)] * (len(parts) - 1))]
        with torch.no_grad():
            caches = [
                network.cross_attention_cache(
                    network.encode_conditioning(
                        part.text_states,
                        part.text_mask,
                        part.speaker,
                        part.lyric_ids,
                        part.lyric_mask,
                        lyric_query_scale=scale,
                    )
                )
                for part, scale in zip(parts, lyric_scales, strict=True)
            ]
        # One pass over all branches: the weights are read once, and the kernels are fuller.
        together = type(caches[0]).cat(caches)
        batch = conditioning.batch_size
        weakened_blocks = self._block_weakening(batch, len(parts)) if "diffusion" in erg else None

        @torch.no_grad()
        def conditional(latents: Tensor, sigma: float) -> Tensor:
            velocity: Tensor = network(latents, self._timesteps(batch, sigma), caches[0])
            return velocity

        @torch.no_grad()
        def contrasted(latents: Tensor, sigma: float) -> tuple[Tensor, ...]:
            velocities: Tensor = network(
                latents.repeat(len(parts), 1, 1, 1),
                self._timesteps(batch * len(parts), sigma),
                together,
                query_scale=weakened_blocks,
            )
            return velocities.chunk(len(parts))

        return Branches(conditional, contrasted)

    def _timesteps(self, batch: int, sigma: float) -> Tensor:
        return torch.full((batch,), 1000 * sigma, device=self.device)

    def _block_weakening(self, batch: int, parts: int) -> dict[int, Tensor]:
        """Factors (parts * batch,) for the weakened blocks: the null part alone is weakened."""
        factors = torch.ones(parts, batch, device=self.device)
        factors[1] = ERG_FACTOR
        return dict.fromkeys(ERG_BLOCKS, factors.flatten())

    def _check_erg(self, erg: Sequence[ErgName]) -> None:
        for option in erg:
            if missing := _layers_missing(option, self.network.config):
                raise InputError(
                    f"erg option {option!r} needs {missing} more layers than {self.name} has; leave it out"
                )


def load_transformer(
    checkpoint: Path, *, folder: str = _TRANSFORMER, dtype: torch.dtype | None = None
) -> ACEStepTransformer:
    """The transformer of a checkpoint folder, without the weights that are never read; on the CPU."""
    path = checkpoint / folder / _WEIGHTS
    config = TransformerConfig.from_dict(read_config(path.with_name("config.json")), read_shapes(path))
    with without_values():
        network = ACEStepTransformer(config)
    load_weights(network, path, dtype=dtype, unread=unread_names(config))
    return network


def load_codec(folder: Path) -> MusicCodec:
    """Autoencoder, log-mel and vocoder of a checkpoint folder, in float32 on the CPU."""
    autoencoder_path = folder / "music_dcae_f8c8" / _WEIGHTS
    with without_values():
        autoencoder = MusicAutoencoder(
            AutoencoderConfig.from_dict(read_config(autoencoder_path.with_name("config.json")))
        )
    load_weights(autoencoder, autoencoder_path, dtype=torch.float32)

    vocoder_path = folder / "music_vocoder" / _WEIGHTS
    config = read_config(vocoder_path.with_name("config.json"))
    log_mel = LogMel(LogMelConfig.from_dict(config))
    vocoder: Vocoder | PhaseVocoder
    if config.get("_class_name") == "PhaseVocoder":
        vocoder = PhaseVocoder(PhaseVocoderConfig.from_dict(config))
    else:
        with without_values():
            vocoder = Vocoder(VocoderConfig.from_dict(config))
    # One file holds both, the log-mel's window and filters under a name of their own.
    together = nn.ModuleDict(dict(vocoder.named_children()))
    together[MEL_PREFIX.rstrip(".")] = log_mel
    load_weights(together, vocoder_path, dtype=torch.float32)
    if isinstance(vocoder, Vocoder):
        vocoder.fold_weight_norm()
    return MusicCodec(autoencoder, log_mel, vocoder)


def _layers_missing(option: ErgName, config: TransformerConfig) -> int:
    """How many layers a network lacks of those that an ERG option weakens; the text encoder checks "tag" itself."""
    needed = {"lyric": max(ERG_LYRIC_LAYERS) + 1, "diffusion": max(ERG_BLOCKS) + 1}
    there = {"lyric": config.lyric_encoder_num_blocks, "diffusion": config.num_layers}
    return max(needed[option] - there[option], 0) if option in needed else 0


def _null(conditioning: Conditioning, erg: Sequence[ErgName]) -> Conditioning:
    """What guidance points away from: no text, speaker or lyrics under the same masks.

    With ERG, weakened ones instead.
    """
    text = conditioning.weakened_text_states if "tag" in erg else None
    empty = replace(
        conditioning,
        text_states=torch.zeros_like(conditioning.text_states) if text is None else text,
        speaker=torch.zeros_like(conditioning.speaker),
    )
    return empty if "lyric" in erg else _without_lyrics(empty)


def _up_to_last(mask: Tensor) -> Tensor:
    """True up to the last token that counts: padding is behind it, and a masked token before it keeps its place."""
    return mask.bool().flip(1).cumsum(dim=1).flip(1) > 0


def _without_lyrics(conditioning: Conditioning) -> Conditioning:
    return replace(conditioning, lyric_ids=torch.zeros_like(conditioning.lyric_ids))


def _lyric_weakening(erg: Sequence[ErgName]) -> dict[int, float] | None:
    return dict.fromkeys(ERG_LYRIC_LAYERS, ERG_FACTOR) if "lyric" in erg else None


def _sampling(settings: Mapping[str, Any], folder: Path) -> SamplingDefaults:
    known = {field.name for field in fields(SamplingDefaults)}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise CheckpointError(
            f"{folder / 'family.json'} has unknown sampling keys {unknown}; known are {sorted(known)}"
        )
    values: dict[str, Any] = {key: tuple(value) if key == "erg" else value for key, value in settings.items()}
    return SamplingDefaults(**values)
