"""Stage 6: what nano can do, measured on seeds that no stage has seen, written into its model card.

    python -m recipes.nano.evaluate [--clips-per-style 6] [--write-card]

Every measure of generated songs is also taken of real synthesised ones that were held out: what the measure itself
misses,
nano cannot be blamed for. The style and section classifiers are trained on real songs alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from acestep import ACEStepPipeline
from acestep.datasets.synthesis import STYLES, SynthTrack, compose_track
from recipes.nano.card import write_card as write_model_card
from recipes.nano.corpus import read_notes
from recipes.nano.features import HOP, SAMPLE_RATE, log_mel
from recipes.nano.measures import (
    clip_features,
    estimate_key,
    estimate_tempo,
    frechet_distance,
    related_keys,
    tempo_matches,
    train_style_classifier,
    window_features,
)  # fmt: skip

ASSETS = Path(__file__).parents[2] / "src" / "acestep" / "assets" / "nano"
CLIP_S, SONG_S = 24.0, 60.0
SECTION_WINDOW_S = 2.0
CODED_CLIPS = 28
FORMS = (("verse", "chorus"), ("chorus",), ("inst",), ("verse",), ("intro", "chorus"), ("verse", "chorus", "outro"))
SONG_FORMS = (
    ("intro", "verse", "chorus", "outro"),
    ("verse", "chorus", "bridge", "chorus"),
    ("intro", "verse", "chorus", "inst", "outro"),
)
_SEED = 90_000


@dataclass(frozen=True)
class Clip:
    """Sound and its mel, with what was asked for (or, for real ones, what is true)."""

    audio: NDArray[np.float32]
    mel: NDArray[np.float32]
    asked: SynthTrack


def held_out(count: int, duration_s: float, forms: Sequence[Sequence[str]]) -> list[SynthTrack]:
    """`count` tracks a style whose seeds lie outside every corpus."""
    tracks = []
    for index in range(count):
        for number, style in enumerate(STYLES.values()):
            rng = np.random.default_rng([_SEED, index, number, int(duration_s)])
            tracks.append(compose_track(style, rng, duration_s=duration_s, form=forms[(index + number) % len(forms)]))
    return tracks


def full_prompt(track: SynthTrack) -> str:
    """The track's own tags, with style, tempo and key put back where its caption left them out."""
    tags = list(track.tags)
    tags += [tag for tag in (track.style, f"{track.bpm} bpm", track.key) if tag not in tags]
    return ", ".join(tags)


def real_clip(track: SynthTrack) -> Clip:
    return Clip(track.audio, _mel(track.audio), track)


def generated_clip(pipe: ACEStepPipeline, track: SynthTrack, seed: int, duration_s: float, **sampling: Any) -> Clip:
    result = pipe(full_prompt(track), lyrics=track.lyrics, duration=duration_s, seed=seed, **sampling)
    audio = result.audio.numpy()
    return Clip(audio, _mel(audio), track)


def measure_clips(clips: Sequence[Clip], styles: Pipeline) -> dict[str, float]:
    """Shares of clips whose style, tempo and key are found as asked, and of broken ones."""
    predicted = styles.predict(np.stack([clip_features(clip.mel) for clip in clips]))
    keys = [estimate_key(clip.audio) for clip in clips]
    return {
        "style": float(np.mean([name == clip.asked.style for name, clip in zip(predicted, clips, strict=True)])),
        "tempo": float(np.mean([tempo_matches(estimate_tempo(clip.mel), clip.asked.bpm) for clip in clips])),
        "key": float(np.mean([key == clip.asked.key for key, clip in zip(keys, clips, strict=True)])),
        "key_or_relative": float(
            np.mean([key in related_keys(clip.asked.key) for key, clip in zip(keys, clips, strict=True)])
        ),
        "silent": float(np.mean([np.sqrt(np.mean(clip.audio**2)) < 0.01 for clip in clips])),
        "clipped": float(np.mean([np.mean(np.abs(clip.audio) >= 0.999) > 1e-3 for clip in clips])),
    }


def per_style(clips: Sequence[Clip], styles: Pipeline) -> dict[str, dict[str, float]]:
    """The same measures for each style asked for."""
    return {name: measure_clips([clip for clip in clips if clip.asked.style == name], styles) for name in STYLES}


def distance(first: Sequence[Clip], second: Sequence[Clip]) -> float:
    """Frechet distance between the log-mel statistics of all their 4 s windows."""
    return frechet_distance(
        *(np.concatenate([window_features(clip.mel) for clip in clips]) for clips in (first, second))
    )


def train_section_classifier(songs: Sequence[tuple[NDArray[np.floating], list[dict[str, Any]]]]) -> Pipeline:
    """Which structure tag a window of 2 s belongs to, from how it sounds and how it differs from its song's mean."""
    features, labels = [], []
    for mel, sections in songs:
        windows = section_windows(mel)
        for index, tag in enumerate(section_labels(sections, len(windows))):
            if tag:
                features.append(windows[index])
                labels.append(tag)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000, class_weight="balanced"))
    classifier.fit(np.stack(features), labels)
    return classifier


def section_windows(mel: NDArray[np.floating]) -> NDArray[np.float64]:
    windows = window_features(mel, SECTION_WINDOW_S)
    return np.concatenate([windows - windows.mean(0), windows], axis=1)


def section_labels(sections: Sequence[dict[str, Any]], windows: int) -> list[str]:
    """The tag at each window's middle."""
    middles = (np.arange(windows) + 0.5) * SECTION_WINDOW_S
    return [next((s["tag"] for s in sections if s["start_s"] <= middle < s["end_s"]), "") for middle in middles]


def structure_kept(clips: Sequence[Clip], classifier: Pipeline) -> float:
    """Share of windows that sound like the section that should be playing."""
    hits = []
    for clip in clips:
        windows = section_windows(clip.mel)
        wanted = section_labels([vars(section) for section in clip.asked.sections], len(windows))
        hits.extend(np.asarray(wanted) == classifier.predict(windows))
    return float(np.mean(hits))


def through_codec(pipe: ACEStepPipeline, clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, float]]:
    """Clips as they sound behind autoencoder and vocoder, and what they lost: mean log-mel differences in nats."""
    codec = pipe.family.codec  # type: ignore[attr-defined]
    coded, mel_errors, audio_errors = [], [], []
    for clip in clips:
        length = clip.mel.shape[-1] // 8 * 8
        mel = torch.from_numpy(clip.mel[:, :, :length])[None]
        with torch.inference_mode():
            decoded = codec.autoencoder.decode(codec.autoencoder.encode(mel))
            audio = codec.vocode(decoded)[0].numpy()
        coded.append(Clip(audio, _mel(audio), clip.asked))
        mel_errors.append((decoded - mel).abs().mean().item())
        audio_errors.append(np.abs(coded[-1].mel[..., :length] - clip.mel[..., :length]).mean())
    return coded, {"autoencoder": float(np.mean(mel_errors)), "with_vocoder": float(np.mean(audio_errors))}


def evaluate(work: Path, assets: Path, *, clips_per_style: int, songs: int, write_card: bool) -> dict[str, Any]:
    """Measure everything, print it, keep it as evaluation.json and, if asked, in the model card."""
    result = measure(work, assets, clips_per_style=clips_per_style, songs=songs)
    text = json.dumps(result, indent=1)
    (work / "evaluation.json").write_text(text + "\n")
    print(text)
    if write_card:
        write_model_card(assets, result)
    return result


def measure(work: Path, assets: Path, *, clips_per_style: int, songs: int) -> dict[str, Any]:
    """All measures, as the card and evaluation.json hold them."""
    notes = [(file, note) for file, note in read_notes(work / "songs")][:840]
    frames = round(CLIP_S * SAMPLE_RATE / HOP)
    styles = train_style_classifier(
        [np.load(file, mmap_mode="r")[:, :, :frames] for file, _ in notes], [note["style"] for _, note in notes]
    )
    long = [(np.load(file), note["sections"]) for file, note in notes if note["sections"][-1]["end_s"] > 50]
    sections = train_section_classifier(long)
    pipe = ACEStepPipeline.from_pretrained(assets)
    tracks = held_out(clips_per_style, CLIP_S, FORMS)
    real = [real_clip(track) for track in tracks]
    began = time.time()
    generated = [generated_clip(pipe, track, _SEED + index, CLIP_S) for index, track in enumerate(tracks)]
    pace = (time.time() - began) / len(tracks)
    long_tracks = held_out(1, SONG_S, SONG_FORMS)[:songs]
    long_real = [real_clip(track) for track in long_tracks]
    long_generated = [generated_clip(pipe, track, _SEED + index, SONG_S) for index, track in enumerate(long_tracks)]
    half = [real_clip(track) for track in held_out(2 * clips_per_style, CLIP_S, FORMS)[len(tracks) :]]
    majority = max(np.unique([tag for _, s in long for tag in section_labels(s, 30)], return_counts=True)[1]) / (
        30 * len(long)
    )
    coded, codec_errors = through_codec(pipe, real[:CODED_CLIPS])
    return {
        "clips": len(tracks), "seconds_per_clip": round(pace, 2), "codec": codec_errors, "coded_clips": len(coded),
        "generated": measure_clips(generated, styles), "real": measure_clips(real, styles),
        "real_through_codec": measure_clips(coded, styles),
        "generated_per_style": per_style(generated, styles),
        "frechet": {"generated_to_real": distance(generated, half), "real_to_real": distance(real, half)},
        "structure": {
            "generated": structure_kept(long_generated, sections), "real": structure_kept(long_real, sections),
            "commonest_section": float(majority),
        },
        "songs_of_60_s": len(long_tracks), "tempo_over_60_s": measure_clips(long_generated, styles)["tempo"],
    }  # fmt: skip


def _mel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    return log_mel(torch.from_numpy(np.ascontiguousarray(audio))).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--clips-per-style", type=int, default=4)
    parser.add_argument("--songs", type=int, default=14)
    parser.add_argument("--write-card", action="store_true", help="write the numbers into the model card")
    arguments = parser.parse_args()
    evaluate(
        arguments.work,
        arguments.assets,
        clips_per_style=arguments.clips_per_style,
        songs=arguments.songs,
        write_card=arguments.write_card,
    )


if __name__ == "__main__":
    main()
