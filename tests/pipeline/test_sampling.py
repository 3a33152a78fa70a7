"""Whole generations against the released program's, from its recorded noise and conditioning."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from acestep.audio.resample import resample_sinc
from acestep.families import Conditioning, SamplingDefaults
from acestep.families.v1 import V1Family, load_codec, load_transformer
from acestep.pipeline.adapted_family import AdaptedFamily
from acestep.pipeline.sampling import (
    sample_edited,
    sample_extended,
    sample_from_reference,
    sample_repainted,
    sample_song,
)
from acestep.pipeline.settings import SamplingSettings
from reference_data import load_golden, reference_path
from small_checkpoint import make_checkpoint

LIMIT = 5e-4
FRAMES_A_SECOND = 44100 / 4096


@dataclass
class RecordedNoise:
    """The released run's draws, in its order."""

    draws: list[Tensor]
    pingpong: list[Tensor] = field(default_factory=list)

    def first(self, frames: int) -> Tensor:
        return self.draws.pop(0)[..., :frames]

    def retake(self, frames: int) -> Tensor:
        return self.draws.pop(0)[..., :frames]

    def fresh(self, _frames: int) -> Tensor:
        return self.pingpong.pop(0)


def family_of(case: str) -> V1Family:
    """Only the network is there: these runs start from recorded conditioning and end at latents."""
    folder = "tiny/transformer_deep" if case == "deep_erg_all" else "tiny/checkpoint/ace_step_transformer"
    path = reference_path(folder)
    network = load_transformer(path.parent, folder=path.name)
    codec, text_encoder, tokenizer = torch.nn.Identity(), cast(Any, None), cast(Any, None)
    return V1Family(network, cast(Any, codec), text_encoder, tokenizer)


def read_case(case: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    relative = f"tiny/goldens/e2e/{case}.safetensors"
    with safe_open(reference_path(relative), "pt") as file:
        return load_golden(relative), json.loads(file.metadata()["call"])


def noise_of(golden: dict[str, Tensor]) -> RecordedNoise:
    def numbered(prefix: str) -> list[Tensor]:
        names = sorted((name for name in golden if name.startswith(prefix)), key=lambda n: int(n.rsplit(".", 1)[1]))
        return [golden[name] for name in names]

    return RecordedNoise(numbered("in.randn."), numbered("in.pingpong_noise."))


def conditioning_of(golden: dict[str, Tensor], prefix: str = "in.", rows: slice | None = None) -> Conditioning:
    part = rows or slice(None)
    weakened = golden.get("in.null_call.encoder_text_hidden_states") if prefix == "in." else None
    return Conditioning(
        text_states=golden[f"{prefix}encoder_text_hidden_states"][part],
        text_mask=golden[f"{prefix}text_attention_mask"][part],
        speaker=golden[f"{prefix}speaker_embeds"][part],
        lyric_ids=golden[f"{prefix}lyric_token_idx"][part],
        lyric_mask=golden[f"{prefix}lyric_mask"][part],
        weakened_text_states=weakened,
    )


def settings_of(call: dict[str, Any]) -> SamplingSettings:
    double = call.get("guidance_scale_text", 0) > 1 and call.get("guidance_scale_lyric", 0) > 1
    names = {"cfg_star": "cfg_zero_star"}
    return SamplingSettings.complete(
        SamplingDefaults(),
        steps=call["infer_step"],
        guidance_scale=call["guidance_scale"],
        scheduler=call["scheduler_type"],
        guidance="double" if double else names.get(call["cfg_type"], call["cfg_type"]),
        guidance_interval=call["guidance_interval"],
        guidance_interval_decay=call["guidance_interval_decay"],
        min_guidance_scale=call["min_guidance_scale"],
        omega_scale=call["omega_scale"],
        erg=[name for name in ("tag", "lyric", "diffusion") if call[f"use_erg_{name}"]],
        oss_steps=[int(step) for step in call["oss_steps"].split(",")] if call.get("oss_steps") else None,
        text_scale=call.get("guidance_scale_text") or None,
        lyric_scale=call.get("guidance_scale_lyric") or None,
    )


def sample(case: str, golden: dict[str, Tensor], call: dict[str, Any]) -> Tensor:
    family, noise = AdaptedFamily(family_of(case)), noise_of(golden)
    settings = settings_of(call)
    task = call.get("task", "text2music")
    if task == "edit":
        source, target = (conditioning_of(golden, f"in.{name}_call.", slice(0, 1)) for name in ("source", "target"))
        return sample_edited(
            family, source, target, settings, noise, golden["mid.source_latents"],
            n_min=call["edit_n_min"], n_max=call["edit_n_max"], n_avg=call["edit_n_avg"],
        )  # fmt: skip
    conditioning = conditioning_of(golden)
    if call.get("audio2audio_enable"):
        return sample_from_reference(
            family, conditioning, settings, noise, golden["mid.source_latents"], strength=call["ref_audio_strength"]
        )
    if task in ("repaint", "extend"):
        source = golden["mid.source_latents"]
        start, end = (int(call[f"repaint_{edge}"] * FRAMES_A_SECOND) for edge in ("start", "end"))
        if task == "repaint":
            variance = call["retake_variance"]
            return sample_repainted(
                family, conditioning, settings, noise, source, start=start, end=end, variance=variance
            )
        left = max(-start, 0)
        right = max(end - (source.shape[-1] + left), 0) if end > source.shape[-1] else 0
        return sample_extended(family, conditioning, settings, noise, source, left=left, right=right)
    frames = golden["in.randn.0"].shape[-1]
    variance = call.get("retake_variance", 0.0) if task == "retake" else 0.0
    return sample_song(family, conditioning, settings, noise, frames, retake_variance=variance)


CASES = [
    "audio2audio", "deep_erg_all", "edit_full", "edit_lyrics_remix", "extend_both", "extend_left", "extend_right",
    "repaint", "retake", "t2m_batch2", "t2m_cfg", "t2m_cfg_star", "t2m_decay1", "t2m_double", "t2m_double_erg_lyric",
    "t2m_erg_tag_lyric", "t2m_euler_apg", "t2m_heun", "t2m_no_lyrics", "t2m_nocfg", "t2m_oss", "t2m_pingpong",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_whole_generation_is_the_released_one(case: str) -> None:
    golden, call = read_case(case)
    latents = sample(case, golden, call)
    expected = golden["out.latents"]
    assert latents.shape == expected.shape
    assert (latents - expected).abs().max() <= LIMIT * expected.abs().max()


@pytest.mark.parametrize("case", ["t2m_euler_apg", "repaint", "audio2audio"])
def test_a_generations_sound_is_the_released_one(case: str) -> None:
    golden, call = read_case(case)
    codec = load_codec(reference_path("tiny/checkpoint"))
    with torch.no_grad():
        audio = codec.decode(sample(case, golden, call))[0].numpy()
    ours, expected = resample_sinc(audio, 44100, 48000), golden["out.wav_48k"].numpy()
    frames = min(ours.shape[-1], expected.shape[-1])
    assert expected.shape[-1] <= ours.shape[-1]
    assert np.abs(ours[:, :frames] - expected[:, :frames]).max() <= LIMIT * np.abs(expected).max()


def test_prompt_and_lyrics_are_encoded_as_released(tmp_path: Path) -> None:
    golden, call = read_case("t2m_heun")
    checkpoint = make_checkpoint(tmp_path / "tiny")
    shutil.copyfile(reference_path("lyrics/vocab.json"), checkpoint / "lyric_tokenizer" / "vocab.json")
    family = V1Family.load(checkpoint)
    ours = family.encode_prompt([call["prompt"]], [call["lyrics"]], weaken_text=True)
    recorded = conditioning_of(golden)
    assert torch.equal(ours.lyric_ids, recorded.lyric_ids)
    assert torch.equal(ours.lyric_mask, recorded.lyric_mask)
    assert torch.equal(ours.text_mask, recorded.text_mask)
    torch.testing.assert_close(ours.text_states, recorded.text_states, rtol=2e-5, atol=2e-5)
