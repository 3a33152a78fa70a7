"""Recordings of the style that were not trained on, ready to be measured against."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from acestep.audio.streaming import AUDIO_SUFFIXES, BLOCK_S, stream_recording
from acestep.datasets.encoding import encode_recording
from acestep.datasets.folder import read_dataset_folder
from acestep.datasets.latent_cache import read_frames
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.datasets.preparation import OnProgress, prepare_dataset
from acestep.errors import AudioError, InputError
from acestep.evaluation.embedding import embed_windows
from acestep.evaluation.evaluation import HeldOut
from acestep.evaluation.held_out import HeldOutClip
from acestep.evaluation.prompts import Prompt
from acestep.families.base import Conditioning, Family

CLIP_S = 10.0
MAX_CLIPS = 2
"""Passages of one recording: more of the same one say little more, since recordings are what is counted."""
MAX_HEARD_S = 60.0
HELD_OUT_SHARE = 0.1
"""As training holds out by default."""

Progress = Callable[[int, int], None]


def read_held_out(family: Family, folder: Path, *, progress: Progress | None = None) -> HeldOut:
    """A dataset folder, or any folder of audio files; where nothing describes them, the loss cannot be measured.

    InputError for a folder without recordings, AudioError for one that cannot be read. Nothing is written to it.
    """
    if not (folder / "audio").is_dir():
        files = find_recordings(folder)
        return HeldOut(windows=_heard(family, [partial(_encoded, family, path) for path in files], progress))
    # The cache is of no use afterwards, and the folder is the user's: clips are kept in memory.
    with tempfile.TemporaryDirectory(prefix="acestep-held-out-") as cache:
        return held_out_part(prepare_dataset(folder, family, cache_dir=cache), family, progress=progress)


def held_out_part(dataset: LatentDataset, family: Family, *, progress: Progress | None = None) -> HeldOut:
    """All recordings of a prepared dataset."""
    clip_frames, heard_frames = (family.latent_frames(seconds) for seconds in (CLIP_S, MAX_HEARD_S))
    clips = tuple(clip for track in dataset.tracks for clip in _clips(track, clip_frames))
    latents = [
        partial(read_frames, track.latents, "latents", 0, min(track.frames, heard_frames)) for track in dataset.tracks
    ]
    described = {"sha256": dataset.sha256, "held_out_tracks": len(dataset.tracks)}
    return HeldOut(windows=_heard(family, latents, progress), clips=clips, dataset=described)


@dataclass(frozen=True)
class DatasetParts:
    """A prepared dataset as training saw it: what was trained on, and what was held out; None where nothing could be.

    prompts: of the held-out tracks (of all, where none were), each once, with their lyrics.
    """

    folder: Path
    training: LatentDataset
    held_out: LatentDataset | None
    prompts: tuple[Prompt, ...]


def read_dataset_parts(
    family: Family, folder: Path, *, held_out: float = HELD_OUT_SHARE, on_progress: OnProgress | None = None
) -> DatasetParts:
    """Prepare a dataset folder (what its training cached is not encoded again) and split it as training does."""
    dataset = prepare_dataset(folder, family, on_progress=on_progress)
    training, kept = dataset.split(held_out)
    return DatasetParts(folder, training, kept, dataset_prompts(folder, kept or training))


def dataset_prompts(folder: Path, dataset: LatentDataset) -> tuple[Prompt, ...]:
    """Prompts and lyrics of a dataset's tracks, each pair once, in the tracks' order."""
    lyrics = {track.name: track.annotation.lyrics for track in read_dataset_folder(folder, skip_bad=True).tracks}
    asked = (Prompt(prompt=track.prompt, lyrics=lyrics.get(track.name, "")) for track in dataset.tracks if track.prompt)
    return tuple(dict.fromkeys(asked))


def find_recordings(folder: Path) -> list[Path]:
    """Audio files anywhere in a folder, by name, hidden ones left out; InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a folder with recordings")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    shown = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not shown:
        raise InputError(
            f"{folder} holds no recordings; expected files that end in {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return shown


def read_start(path: Path, sample_rate: int, seconds: float) -> NDArray[np.float32]:
    """The first `seconds` of a recording, (2, samples) float32; AudioError names the file."""
    try:
        blocks = list(islice(stream_recording(path, sample_rate), int(seconds / BLOCK_S) + 1))
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    if not blocks:
        raise AudioError(f"{path}: it has no audio in it")
    return np.concatenate(blocks, axis=1)[:, : int(seconds * sample_rate)]


def _clips(track: CachedTrack, clip_frames: int) -> Iterator[HeldOutClip]:
    """Up to MAX_CLIPS passages, evenly spread; a recording shorter than one is taken whole."""
    conditioning = Conditioning(**load_file(track.conditioning))
    frames = min(clip_frames, track.frames)
    count = min(MAX_CLIPS, track.frames // frames)
    for index in range(count):
        start = (track.frames - frames) * index // max(count - 1, 1)
        yield HeldOutClip(track.name, read_frames(track.latents, "latents", start, frames), conditioning)


def _heard(
    family: Family, recordings: Sequence[Callable[[], Tensor]], progress: Progress | None
) -> tuple[NDArray[np.float64], ...]:
    """Embeddings of recordings as the base's own codec renders them, or its sound would be taken for a style.

    recordings: what gives the latents of each, (8, 16, frames), so that one at a time is in memory.
    """
    embedded = []
    for done, latents in enumerate(recordings, start=1):
        audio = family.decode_latents(latents().unsqueeze(0).to(family.device))[0]
        embedded.append(embed_windows(audio.float().cpu().numpy(), family.sample_rate))
        if progress is not None:
            progress(done, len(recordings))
    return tuple(embedded)


def _encoded(family: Family, path: Path) -> Tensor:
    try:
        return encode_recording(family, path)[..., : family.latent_frames(MAX_HEARD_S)]
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
