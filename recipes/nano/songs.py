"""Training examples for the transformer: latents from a downbeat on, with the prompt and lyrics they carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from acestep.conditioning.lyric_tokenizer import LyricTokenizer
from acestep.datasets.synthesis import STYLES
from acestep.models.v1.autoencoder import MusicAutoencoder
from recipes.nano.corpus import read_notes
from recipes.nano.features import FRAMES_PER_LATENT, LATENT_FRAME_S

# Crop lengths in latent frames and how often each is drawn: 12, 15, 20, 30 and 60 s.
CROPS = {128: 0.34, 160: 0.22, 216: 0.16, 320: 0.14, 644: 0.14}
# A sixteenth of a frame is 6 ms.
ON_THE_FRAME = 1 / 16
MIN_HEARD_S = 1.0


@dataclass(frozen=True)
class Batch:
    """latents: (batch, 8, 16, frames); text_ids, lyric_ids and their masks: (batch, tokens), padded with zeros."""

    latents: Tensor
    text_ids: Tensor
    text_mask: Tensor
    lyric_ids: Tensor
    lyric_mask: Tensor


def encode_songs(songs: Path, latents: Path, autoencoder: MusicAutoencoder, *, device: torch.device) -> None:
    """Write the float16 latents of every song that has none yet."""
    latents.mkdir(parents=True, exist_ok=True)
    for done, (file, _) in enumerate(read_notes(songs), 1):
        target = latents / file.name.replace(".mel.", ".")
        if target.exists():
            continue
        mel = torch.from_numpy(np.load(file)).float()
        mel = mel[None, :, :, : mel.shape[-1] // FRAMES_PER_LATENT * FRAMES_PER_LATENT]
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            encoded = autoencoder.encode(mel.to(device, memory_format=torch.channels_last))
        np.save(target, encoded[0].float().cpu().numpy().astype(np.float16))
        if done % 200 == 0:
            print(f"latents: {done} songs", flush=True)


class SongBook:
    """All encoded stretches in memory; examples are drawn by step, so a resumed run sees what an unbroken one would."""

    def __init__(self, songs: Path, latents: Path, prompts: Path, lyrics: Path) -> None:
        self.notes = {file.name.split(".")[0]: notes for file, notes in read_notes(songs)}
        self.stretches = []
        for file in sorted(latents.glob("*.npy")):
            notes, encoded = self.notes[file.stem], np.load(file)
            for frame in _downbeats(notes, encoded.shape[-1]):
                self.stretches.append((notes, frame * LATENT_FRAME_S, encoded[..., frame:]))
        self.prompts = Tokenizer.from_file(str(prompts / "tokenizer.json"))
        self.encode_lyrics = lyric_encoder(lyrics)
        self.by_length = {
            frames: [stretch for stretch in self.stretches if stretch[2].shape[-1] >= frames] for frames in CROPS
        }
        chances = np.array([chance if self.by_length[frames] else 0.0 for frames, chance in CROPS.items()])
        self.chances = chances / chances.sum()

    def draw(self, step: int, frames_per_step: int, *, rank: int = 0) -> Batch:
        """One batch of equal crops, about `frames_per_step` frames; each rank draws others of the same length."""
        frames = int(np.random.default_rng([7, step]).choice(list(CROPS), p=self.chances))
        rng = np.random.default_rng([7, step, 1 + rank])
        pool = self.by_length[frames]
        latents, texts, lyrics = [], [], []
        for _ in range(max(1, round(frames_per_step / frames))):
            notes, start_s, stretch = pool[int(rng.integers(len(pool)))]
            latents.append(stretch[..., :frames])
            texts.append(self.prompts.encode(_retold(notes["tags"], rng)).ids)
            lyrics.append(self.encode_lyrics(_heard(notes["sections"], start_s, start_s + frames * LATENT_FRAME_S)))
        text_ids, text_mask = pad(texts)
        lyric_ids, lyric_mask = pad(lyrics)
        return Batch(torch.from_numpy(np.stack(latents)).float(), text_ids, text_mask, lyric_ids, lyric_mask)


def lyric_encoder(vocabulary: Path) -> Callable[[str], list[int]]:
    """The pipeline's own lyric ids, a line at a time and remembered: finding its language takes a millisecond."""
    tokenizer = LyricTokenizer(vocabulary)

    @lru_cache(maxsize=100_000)
    def line_ids(line: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(line))

    def encode(lyrics: str) -> list[int]:
        if not lyrics.strip():
            return []
        lines = [line_ids(line.strip()) for line in lyrics.split("\n")]
        return [lines[0][0], *(token for line in lines for token in line[1:])]

    return encode


def pad(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """-> ids and mask (batch, longest), at least one column"""
    width = max(1, *(len(sequence) for sequence in sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids, mask


def _downbeats(notes: dict, frames: int) -> list[int]:
    """Latent frames on which a bar begins, to within ON_THE_FRAME, with room for the shortest crop after them.

    A crop always begins on a downbeat, so the place of every beat follows from the tempo.
    """
    bar = len(STYLES[notes["style"]].drums[0][0].pattern) * 60 / notes["bpm"] / 4 / LATENT_FRAME_S
    places = np.arange(0, frames - min(CROPS), bar)
    return [round(place) for place in places if abs(place - round(place)) < ON_THE_FRAME]


def _retold(tags: list[str], rng: np.random.Generator) -> str:
    """The same tags in another order, one of the less telling ones left out now and then."""
    kept = [tag for tag in tags if tag.endswith(("bpm", "major", "minor")) or rng.random() < 0.9]
    return ", ".join(kept[i] for i in rng.permutation(len(kept)))


def _heard(sections: list[dict], start_s: float, end_s: float) -> str:
    """Lyrics of the sections that are heard for a second or more, without the lines that are over or yet to come."""
    blocks = []
    for section in sections:
        begin, end = section["start_s"], section["end_s"]
        if min(end, end_s) - max(begin, start_s) < MIN_HEARD_S:
            continue
        lines = section["lines"]
        share = (end - begin) / max(1, len(lines))
        heard = [
            line
            for i, line in enumerate(lines)
            if begin + i * share < end_s - 0.5 * share and begin + (i + 1) * share > start_s + 0.5 * share
        ]
        blocks.append("\n".join((f"[{section['tag']}]", *heard)))
    return "\n\n".join(blocks)
