"""Songs made while training: the same prompts and seeds each time, beside what the base makes of them.

What sounds is the adapter as its file would hold it, attached anew and apart from the one in training, so a sample is
bit for bit the song that a pipeline makes later from that file. The run's random numbers, its adapter and its dropout
are as before, and nothing of the songs stays in memory.
"""

from __future__ import annotations

import gc
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from acestep.audio.files import read_audio
from acestep.audio.spectrogram import mel_levels_db
from acestep.errors import AceStepError, InputError
from acestep.families.base import Family
from acestep.lora.adapter import Adapter
from acestep.lora.attach import TrainableAdapter, attach, attached_names, detach, set_weights
from acestep.lora.whole_folder import written_whole
from acestep.pipeline import ACEStepPipeline, read_recipe
from acestep.pipeline.settings import SamplingSettings, check_duration, check_seed
from acestep.training.results import Sample, SamplesResult

logger = logging.getLogger(__name__)

SILENT_PEAK = 1e-3
"""-60 dB below full scale: a song that never gets louder is called silent."""
SAMPLED_PROMPTS = 2
"""Of the dataset's, where a config names none."""
_SLUG_BYTES = 60
_NAME = "sample"
_BANDS, _COLUMNS_PER_S, _RANGE_DB = 48, 20, 60.0

Floats = NDArray[np.float64]


class Note(Protocol):
    """Where events go, as `RunControl.note` takes them."""

    def __call__(self, event: str, **details: Any) -> None: ...


def log_note(event: str, **details: Any) -> None:
    """For callers without a run: events become warnings in the log."""
    logger.warning("%s: %s", event, ", ".join(f"{name} {value}" for name, value in details.items()))


@dataclass(frozen=True)
class _Song:
    """To be made in each round: its prompt and seed, and the file's name in the round's folder."""

    prompt: str
    seed: int
    file: str


class SampleMaker:
    """Makes rounds of songs, one a prompt and seed, into `folder/epoch-0010/`, and the base's once into `folder/base/`.

    lyrics: one text for all prompts, or one each. wishes: sampling settings as the pipeline takes them, None or absent
    is the family's own. Raises InputError at once for a prompt, seed, length or setting that cannot be used.
    """

    def __init__(
        self,
        family: Family,
        prompts: Sequence[str],
        lyrics: str | Sequence[str] = "",
        seeds: Sequence[int] = (0,),
        duration_s: float = 20.0,
        folder: str | Path = "samples",
        **wishes: Any,
    ) -> None:
        texts = [lyrics] * len(prompts) if isinstance(lyrics, str) else list(lyrics)
        if not prompts or not seeds:
            raise InputError("samples need at least one prompt and one seed")
        if len(texts) != len(prompts):
            raise InputError(f"{len(prompts)} prompts came with {len(texts)} lyrics; give one text, or one a prompt")
        SamplingSettings.complete(family.sampling, **wishes)
        family.encode_prompt(list(prompts), texts)
        self._lyrics = dict(zip(prompts, texts, strict=True))
        self._songs = tuple(
            _Song(prompt, check_seed(seed), f"{place:02}-{slug(prompt)}-seed{seed}.flac")
            for place, prompt in enumerate(prompts, start=1)
            for seed in dict.fromkeys(seeds)
        )
        self._pipe = ACEStepPipeline(family)
        self._settings = {**wishes, "duration": check_duration(duration_s)}
        self._folder = Path(folder)

    def make(self, epoch: int, step: int, adapter: TrainableAdapter, *, note: Note = log_note) -> SamplesResult:
        """A round of songs with the adapter as it is now; those of the base too, where they are not there yet.

        A song that is silent or no number is told by `note` ("silent_sample", "broken_sample"; the latter has no file),
        and so is a round that fails, for a full disk or too little memory ("samples_failed"): the run goes on.
        """
        name = f"epoch-{epoch:04}"
        samples: list[Sample] = []
        likeness = None
        try:
            family = self._pipe.family
            # A training keeps them off the GPU.
            with _undisturbed(family), family.encoders_on(family.device):
                base = self._make_base(adapter, note)
                with written_whole(self._folder / name) as partial, _as_saved(adapter):
                    made = [song for song in self._songs if self._write(song, partial, note, epoch=epoch, step=step)]
                    paths = {song: partial / song.file for song in made}
                    common = [song for song in made if song in base]
                    likeness = _likeness([(song.prompt, paths[song], base[song]) for song in common])
                samples = [
                    Sample(
                        song.prompt, self._lyrics[song.prompt], song.seed, self._folder / name / song.file, base[song]
                    )
                    for song in common
                ]
        except (AceStepError, OSError, torch.OutOfMemoryError) as error:
            note("samples_failed", epoch=epoch, step=step, error=f"{type(error).__name__}: {error}")
            samples, likeness = [], None
        return SamplesResult(step, epoch, self._folder / name, tuple(samples), likeness)

    def _make_base(self, adapter: TrainableAdapter, note: Note) -> dict[_Song, Path]:
        """Files of the songs by the base; what lies there already from the same base and settings is kept."""
        folder = self._folder / "base"
        with _without(adapter):
            return {
                song: folder / song.file
                for song in self._songs
                if self._is_there(folder / song.file, song) or self._write(song, folder, note)
            }

    def _write(self, song: _Song, folder: Path, note: Note, **told: int) -> bool:
        made = self._pipe(song.prompt, self._lyrics[song.prompt], seed=song.seed, **self._settings)
        about = {**told, "of": "the adapter" if told else "the base", "prompt": song.prompt, "seed": song.seed}
        if not bool(made.audio.isfinite().all()):
            note("broken_sample", **about)
            return False
        if float(made.audio.abs().max()) < SILENT_PEAK:
            note("silent_sample", **about, file=song.file)
        loras = (
            [{"path": f"{self._folder.resolve().parent.name} at step {told['step']}", "weight": 1.0}] if told else []
        )
        replace(made, recipe={**made.recipe, "loras": loras, **told}).save(folder / song.file)
        return True

    def _is_there(self, path: Path, song: _Song) -> bool:
        try:
            recipe = read_recipe(path)
        except (AceStepError, OSError):
            return False
        params = recipe.get("params", {})
        asked = {"prompt": song.prompt, "lyrics": self._lyrics[song.prompt], "seed": song.seed, **self._settings}
        same = all(params.get(name) == _plain(value) for name, value in asked.items() if value is not None)
        return same and recipe.get("fingerprint") == self._pipe.family.fingerprint()


def slug(prompt: str) -> str:
    """A prompt as part of a file's name, in any script, cut to what every file system takes."""
    words = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFKC", prompt).lower()).strip("-")
    return words.encode()[:_SLUG_BYTES].decode(errors="ignore").strip("-") or "prompt"


def embed_song(audio: NDArray[np.float32], sample_rate: int) -> Floats:
    """What a song sounds like, deaf to its loudness: (channels, samples) -> (2 * bands,) in dB.

    Mean and standard deviation over time of each mel band's level, the quietest 60 dB below the song's loudest.
    """
    seconds = audio.shape[1] / sample_rate
    levels = mel_levels_db(audio.mean(axis=0), sample_rate, bands=_BANDS, columns=max(int(seconds * _COLUMNS_PER_S), 2))
    levels = np.maximum(levels, levels.max() - _RANGE_DB)
    means = levels.mean(axis=1)
    return np.concatenate([means - means.mean(), levels.std(axis=1)])


def likeness_of(songs: Sequence[tuple[str, Floats]], base: Sequence[tuple[str, Floats]]) -> float | None:
    """How much of what sets the base's songs apart is gone: 0 none, 1 all, below 0 they differ more than the base's.

    (prompt, embedding) of songs, and of the base's at the same prompts and seeds. One minus the ratio of the mean
    squared distances between songs of different prompts; of different seeds, where there is one prompt. Of unit
    vectors that is the gain in mean cosine, as a share of what there is to gain; distances do not see what all songs
    share, so a style that the adapter gives to all of them does not count. None for a single song, or where the base's
    songs are all alike themselves.
    """
    apart, base_apart = _mean_square_distance(songs), _mean_square_distance(base)
    if apart is None or not base_apart:
        return None
    return 1 - apart / base_apart


def _likeness(pairs: Sequence[tuple[str, Path, Path]]) -> float | None:
    # Both from their files, so that a resumed run, which has the base's songs as files alone, says the same.
    return likeness_of(
        [(prompt, _embed_file(path)) for prompt, path, _ in pairs],
        [(prompt, _embed_file(path)) for prompt, _, path in pairs],
    )


def _embed_file(path: Path) -> Floats:
    rate = 44100
    return embed_song(read_audio(path, sample_rate=rate), rate)


def _mean_square_distance(songs: Sequence[tuple[str, Floats]]) -> float | None:
    pairs = [(one, other) for place, one in enumerate(songs) for other in songs[:place]]
    if len({prompt for prompt, _ in songs}) > 1:
        pairs = [(one, other) for one, other in pairs if one[0] != other[0]]
    if not pairs:
        return None
    return float(np.mean([np.square(one[1] - other[1]).mean() for one, other in pairs]))


@contextmanager
def _undisturbed(family: Family) -> Iterator[None]:
    """As a pipeline would generate: no gradients, no autocast, nothing compiled for training; then all as before."""
    devices = [family.device] if family.device.type == "cuda" else []
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
            torch.autocast(family.device.type, enabled=False),
            # Compiled blocks would be compiled again for a song's shapes, and once more when training goes on.
            _eager(),
        ):
            yield
    finally:
        gc.collect()
        if devices:
            # Else the songs' blocks stay with the allocator, and count where the steps' peak is tight.
            torch.cuda.empty_cache()


@contextmanager
def _eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _without(adapter: TrainableAdapter) -> Iterator[None]:
    """The network as the bare base, the adapter in training left where it is."""
    names = attached_names(adapter.network)
    set_weights(adapter.network, dict.fromkeys(names, 0.0))
    try:
        yield
    finally:
        set_weights(adapter.network, dict.fromkeys(names, 1.0))


@contextmanager
def _as_saved(adapter: TrainableAdapter) -> Iterator[None]:
    """The network with the adapter as a reader of its file has it: scale in B, one rank, the base's dtype."""
    copy = adapter.adapter()
    whole = Adapter({name: factors.padded(copy.rank) for name, factors in copy.factors.items()}, copy.metadata)
    with _without(adapter):
        attach(adapter.network, whole, name=_NAME)
        try:
            yield
        finally:
            detach(adapter.network, _NAME)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
