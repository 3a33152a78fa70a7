"""Prompt to song: the pipeline that people use, and its tasks on existing songs."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from acestep.audio.files import read_audio
from acestep.errors import InputError
from acestep.families.base import Conditioning, Family
from acestep.families.loading import load_family
from acestep.models.quantization import Quantization, quantization_of
from acestep.pipeline.adapted_family import AdaptedFamily, LoraPath, LoraSpec, Weight, lora_wishes
from acestep.pipeline.noise import LATENT_SHAPE, SeededNoise
from acestep.pipeline.result import GenerationResult
from acestep.pipeline.sampling import (
    sample_edited,
    sample_extended,
    sample_from_reference,
    sample_repainted,
    sample_song,
)
from acestep.pipeline.settings import MAX_DURATION_S, SamplingSettings, check_duration, check_seed

PEAK_LIMIT = 0.99

Source = str | Path | GenerationResult | Tensor
"""An existing song: a file, a result, or audio (2, samples) at the model's rate."""
Progress = Callable[[int, int], None]
"""Called as (step, steps) after each step; what it raises stops the song."""


class ACEStepPipeline:
    """Songs from prompts, with any number of adapters on one base model.

    Every method takes the sampling settings of `__call__` as keywords; None means the model's own default.
    """

    def __init__(self, family: Family, *, model: str = "") -> None:
        self.family = family
        self.model = model or family.name
        self._adapted = AdaptedFamily(family)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        lora_path: LoraSpec | Sequence[LoraSpec] | None = None,
        lora_weight: Weight | None = None,
        torch_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        *,
        quantization: Quantization | None = None,
    ) -> ACEStepPipeline:
        """Load "nano", a checkpoint folder or a hub id, and one adapter or several.

        lora_path: a file, folder, hub id or official name, alone or as (path, weight), or a list of these; also what a
        recipe holds as "loras". lora_weight: of those that come alone; None is what each file recommends. torch_dtype
        None is bfloat16 on a GPU and float32 on the CPU; device None is the first GPU, else the CPU. quantization:
        "int8" or "nf4" for the base's weights. Raises InputError, MissingWeightsError, CheckpointError or AdapterError,
        each saying what to do.
        """
        wishes = lora_wishes(lora_path, lora_weight)
        family = load_family(name_or_path, device=device, dtype=torch_dtype, quantization=quantization)
        pipe = cls(family, model=str(name_or_path))
        for wish in wishes:
            pipe.load_lora(wish.path, wish.weight, raw_scale=wish.raw_scale)
        return pipe

    @property
    def loras(self) -> Mapping[str, Weight]:
        """Attached adapters by name and how strong they are: numbers, or `Strength` where it changes in the song."""
        return {name: lora.weight for name, lora in self._adapted.loras.items()}

    def load_lora(
        self, path: LoraPath, weight: Weight | None = None, *, name: str | None = None, raw_scale: bool = False
    ) -> str:
        """Attach an adapter -> its name, by which `set_lora_weights` and `unload_lora` know it.

        Several add up exactly. weight: a number, or a `Strength` with sections of the song and noise ranges; None is
        what the adapter's file recommends, 1 for most. raw_scale: play the factors as they lie in the file, as the
        official v1 program does.
        """
        return self._adapted.load(path, weight, name=name, raw_scale=raw_scale)

    def set_lora_weights(self, weights: Mapping[str, Weight]) -> None:
        """Change strengths; adapters not named keep theirs. No weights are read again."""
        self._adapted.set_weights(weights)

    def unload_lora(self, name: str | None = None) -> None:
        """Detach one adapter, or all; the base is then bit for bit itself again."""
        self._adapted.unload(name)

    @overload
    def __call__(
        self, prompt: str, lyrics: str = ..., *args: Any, output_type: Literal["audio"] = ..., **settings: Any
    ) -> GenerationResult: ...
    @overload
    def __call__(
        self, prompt: str, lyrics: str = ..., *args: Any, output_type: Literal["latents"], **settings: Any
    ) -> Tensor: ...
    def __call__(  # type: ignore[misc]  # the overloads spell out only what decides the type
        self,
        prompt: str,
        lyrics: str = "",
        duration: float = 30.0,
        seed: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        guidance: str | None = None,
        guidance_interval: float | None = None,
        guidance_interval_decay: float | None = None,
        min_guidance_scale: float | None = None,
        omega_scale: float | None = None,
        erg: Sequence[str] | None = None,
        latents: Tensor | None = None,
        output_type: str = "audio",
        callback: Progress | None = None,
        *,
        oss_steps: Sequence[int] | None = None,
        text_scale: float | None = None,
        lyric_scale: float | None = None,
    ) -> GenerationResult | Tensor:
        """Make a song of `duration` seconds, 5 to 240.

        seed: None draws one, which the result names. steps, guidance_scale, scheduler ("euler", "heun", "pingpong"),
        guidance ("apg", "cfg", "cfg_zero_star", "double"), the share of steps that are guided (guidance_interval),
        how far the scale falls across them towards
        min_guidance_scale (guidance_interval_decay), omega_scale, erg (of "tag", "lyric", "diffusion"): None is the
        model's default. oss_steps: chosen steps of a longer schedule; text_scale, lyric_scale: the weights of "double".
        latents: initial noise (1, 8, 16, frames) in place of the seed's. output_type "latents" returns the clean
        latents instead of a result. Raises InputError for what is out of range or too long, naming the limit.
        """
        settings = self._settings(
            steps=steps, guidance_scale=guidance_scale, scheduler=scheduler, guidance=guidance,
            guidance_interval=guidance_interval, guidance_interval_decay=guidance_interval_decay,
            min_guidance_scale=min_guidance_scale, omega_scale=omega_scale, erg=erg, oss_steps=oss_steps,
            text_scale=text_scale, lyric_scale=lyric_scale,
        )  # fmt: skip
        if output_type not in ("audio", "latents"):
            raise InputError(f"output_type is {output_type!r}; choose audio or latents")
        seed = self._seed(seed)
        frames = self.family.latent_frames(check_duration(duration))
        if latents is not None:
            frames = self._check_latents(latents)
        conditioning = self._encode(prompt, lyrics, settings)
        sampled = sample_song(
            self._adapted,
            conditioning,
            settings,
            SeededNoise([seed]),
            frames,
            start=latents,
            on_step=_reporter(callback, settings),
        )
        if output_type == "latents":
            return sampled
        params = {"prompt": prompt, "lyrics": lyrics, "duration": duration, "seed": seed, **settings.wishes()}
        return self._result("generate", sampled, seed, params)

    def retake(
        self,
        prompt: str,
        lyrics: str = "",
        duration: float = 30.0,
        *,
        seed: int,
        retake_seed: int | None = None,
        variance: float = 0.5,
        callback: Progress | None = None,
        **wishes: Any,
    ) -> GenerationResult:
        """A variation of the song that `seed` makes: 0 is that song, 1 the one of `retake_seed`, between them their
        likeness fades.
        """
        settings, retake_seed = self._settings(**wishes), self._seed(retake_seed)
        _check_share("variance", variance)
        sampled = sample_song(
            self._adapted,
            self._encode(prompt, lyrics, settings),
            settings,
            SeededNoise([check_seed(seed)], [retake_seed]),
            self.family.latent_frames(check_duration(duration)),
            retake_variance=variance,
            on_step=_reporter(callback, settings),
        )
        params = {"prompt": prompt, "lyrics": lyrics, "duration": duration, "seed": seed, "retake_seed": retake_seed}
        return self._result("retake", sampled, seed, {**params, "variance": variance, **settings.wishes()})

    def from_reference(
        self,
        reference: Source,
        prompt: str,
        lyrics: str = "",
        *,
        strength: float = 0.5,
        seed: int | None = None,
        callback: Progress | None = None,
        **wishes: Any,
    ) -> GenerationResult:
        """Audio to audio: a song that follows `reference`, the more the nearer `strength` is to 1."""
        settings, seed = self._settings(**wishes), self._seed(seed)
        if not 0 <= strength < 1:
            raise InputError(
                f"strength is {strength:g}; give 0 (free) up to, but not including, 1 (the reference itself)"
            )
        sampled = sample_from_reference(
            self._adapted,
            self._encode(prompt, lyrics, settings),
            settings,
            SeededNoise([seed]),
            self._latents_of(reference),
            strength=strength,
            on_step=_reporter(callback, settings),
        )
        params = {
            "reference": _source_name(reference),
            "prompt": prompt,
            "lyrics": lyrics,
            "strength": strength,
            "seed": seed,
        }
        return self._result("from_reference", sampled, seed, {**params, **settings.wishes()})

    def repaint(
        self,
        source: Source,
        prompt: str,
        lyrics: str = "",
        *,
        start_s: float,
        end_s: float,
        variance: float = 1.0,
        seed: int | None = None,
        retake_seed: int | None = None,
        callback: Progress | None = None,
        **wishes: Any,
    ) -> GenerationResult:
        """Make the stretch from `start_s` to `end_s` anew and keep the rest.

        A variance below 1 keeps some of the old there too.
        """
        settings, seed = self._settings(**wishes), self._seed(seed)
        retake_seed = self._seed(retake_seed)
        _check_share("variance", variance)
        latents = self._latents_of(source)
        duration_s = latents.shape[-1] / self.family.latent_rate
        if not 0 <= start_s < end_s <= duration_s + 1 / self.family.latent_rate:
            raise InputError(
                f"the stretch is {start_s:g} to {end_s:g} s; give a rising pair within 0 to {duration_s:.2f} s"
            )
        start, end = (int(edge * self.family.latent_rate) for edge in (start_s, end_s))
        sampled = sample_repainted(
            self._adapted,
            self._encode(prompt, lyrics, settings),
            settings,
            SeededNoise([seed], [retake_seed]),
            latents,
            start=start,
            end=max(end, start + 1),
            variance=variance,
            on_step=_reporter(callback, settings),
        )
        params = {
            "source": _source_name(source),
            "prompt": prompt,
            "lyrics": lyrics,
            "start_s": start_s,
            "end_s": end_s,
        }
        chosen = {"variance": variance, "seed": seed, "retake_seed": retake_seed, **settings.wishes()}
        return self._result("repaint", sampled, seed, {**params, **chosen})

    def extend(
        self,
        source: Source,
        prompt: str,
        lyrics: str = "",
        *,
        left_s: float = 0.0,
        right_s: float = 0.0,
        seed: int | None = None,
        retake_seed: int | None = None,
        callback: Progress | None = None,
        **wishes: Any,
    ) -> GenerationResult:
        """Grow a song by `left_s` seconds before its start and `right_s` after its end; what is there is kept."""
        settings, seed = self._settings(**wishes), self._seed(seed)
        retake_seed = self._seed(retake_seed)
        latents = self._latents_of(source)
        left, right = (int(side * self.family.latent_rate) for side in (left_s, right_s))
        if left < 0 or right < 0 or left + right == 0:
            raise InputError(f"left_s is {left_s:g} and right_s {right_s:g}; give at least one of them above 0")
        total_s = (latents.shape[-1] + left + right) / self.family.latent_rate
        if total_s > MAX_DURATION_S:
            raise InputError(f"the extended song would last {total_s:.1f} s; the limit is {MAX_DURATION_S:g} s")
        sampled = sample_extended(
            self._adapted,
            self._encode(prompt, lyrics, settings),
            settings,
            SeededNoise([seed], [retake_seed]),
            latents,
            left=left,
            right=right,
            on_step=_reporter(callback, settings),
        )
        params = {
            "source": _source_name(source),
            "prompt": prompt,
            "lyrics": lyrics,
            "left_s": left_s,
            "right_s": right_s,
        }
        return self._result(
            "extend", sampled, seed, {**params, "seed": seed, "retake_seed": retake_seed, **settings.wishes()}
        )

    def edit(
        self,
        source: Source,
        prompt: str,
        lyrics: str = "",
        *,
        target_prompt: str | None = None,
        target_lyrics: str | None = None,
        n_min: float = 0.0,
        n_max: float = 1.0,
        n_avg: int = 1,
        seed: int | None = None,
        callback: Progress | None = None,
        **wishes: Any,
    ) -> GenerationResult:
        """Change what a song says or how it sounds: from (prompt, lyrics), which describe it, to the target's; None
        keeps that part.

        n_min, n_max: the share of steps between which the change is made; a smaller n_max remixes more freely.
        n_avg: noises averaged at each step, for a steadier change at that many times the cost.
        """
        settings, seed = self._settings(**wishes), self._seed(seed)
        if not 0 <= n_min < n_max <= 1 or n_avg < 1:
            raise InputError(
                f"n_min is {n_min:g}, n_max {n_max:g}, n_avg {n_avg}; give 0 <= n_min < n_max <= 1 and n_avg >= 1"
            )
        if settings.guidance == "double":
            raise InputError("guidance 'double' has no edit; choose apg, cfg or cfg_zero_star")
        new_prompt = prompt if target_prompt is None else target_prompt
        new_lyrics = lyrics if target_lyrics is None else target_lyrics
        sampled = sample_edited(
            self._adapted,
            self._encode(prompt, lyrics, settings),
            self._encode(new_prompt, new_lyrics, settings),
            settings,
            SeededNoise([seed], [seed]),
            self._latents_of(source),
            n_min=n_min,
            n_max=n_max,
            n_avg=n_avg,
            on_step=_reporter(callback, settings),
        )
        params = {
            "source": _source_name(source), "prompt": prompt, "lyrics": lyrics, "target_prompt": new_prompt,
            "target_lyrics": new_lyrics, "n_min": n_min, "n_max": n_max, "n_avg": n_avg, "seed": seed,
        }  # fmt: skip
        return self._result("edit", sampled, seed, {**params, **settings.wishes()})

    def _settings(self, **wishes: Any) -> SamplingSettings:
        return SamplingSettings.complete(self.family.sampling, **wishes)

    def _encode(self, prompt: str, lyrics: str, settings: SamplingSettings) -> Conditioning:
        return self.family.encode_prompt([prompt], [lyrics], weaken_text="tag" in settings.erg)

    def _latents_of(self, source: Source) -> Tensor:
        if isinstance(source, GenerationResult):
            return source.latents
        if isinstance(source, Tensor):
            if source.ndim != 2 or source.shape[0] != 2:
                rate = self.family.sample_rate
                raise InputError(f"the source has shape {list(source.shape)}; give audio (2, samples) at {rate} Hz")
            return self.family.encode_audio(source.unsqueeze(0))
        audio = read_audio(Path(source), sample_rate=self.family.sample_rate, channels=2, max_duration_s=MAX_DURATION_S)
        return self.family.encode_audio(torch.as_tensor(audio).unsqueeze(0))

    def _result(self, task: str, latents: Tensor, seed: int, params: dict[str, Any]) -> GenerationResult:
        audio = self.family.decode_latents(latents)[0].float().cpu()
        # A vocoder may overshoot full scale; the whole song is turned down rather than its peaks cut off.
        audio = audio / max(1.0, float(audio.abs().max()) / PEAK_LIMIT)
        recipe: dict[str, Any] = {
            "task": task,
            "model": self.model,
            "fingerprint": self.family.fingerprint(),
            "loras": [lora.record() for lora in self._adapted.loras.values()],
            "params": params,
            "acesteps": version("acesteps"),
        }
        if (quantization := quantization_of(self.family.network)) is not None:
            recipe["quantization"] = quantization
        return GenerationResult(audio, self.family.sample_rate, seed, params, latents.cpu(), recipe)

    def _check_latents(self, latents: Tensor) -> int:
        if latents.ndim != 4 or tuple(latents.shape[:3]) != (1, *LATENT_SHAPE):
            raise InputError(f"latents have shape {list(latents.shape)}; give (1, 8, 16, frames)")
        return latents.shape[-1]

    @staticmethod
    def _seed(seed: int | None) -> int:
        return secrets.randbelow(2**32) if seed is None else check_seed(seed)


def _reporter(callback: Progress | None, settings: SamplingSettings) -> Callable[[int, Tensor], None] | None:
    if callback is None:
        return None
    return lambda index, _latents: callback(index + 1, settings.steps)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value:g}; give 0 to 1")


def _source_name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else f"<{type(source).__name__}>"
