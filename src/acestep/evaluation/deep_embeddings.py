"""Style and Fréchet distances on the embeddings of CLAP and MERT, where their weights are on this machine.

CLAP (Wu et al. 2023, arXiv:2211.06687) hears what words say of music, MERT (Li et al. 2023, arXiv:2306.00107) its notes
and timbre. Both are read from the Hugging Face cache and never fetched. Ten seconds of music take CLAP about a third of
a second on a CPU and MERT three; songs are embedded one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from acestep.datasets.latent_cache import read_frames
from acestep.datasets.latent_dataset import LatentDataset
from acestep.datasets.representation_encoder import RepresentationEncoder
from acestep.errors import AceStepError, CheckpointError, InputError, MissingWeightsError
from acestep.evaluation.evaluation import Listener, Progress
from acestep.evaluation.findings import Finding
from acestep.evaluation.measures import FRECHET_WINDOWS, Figure, count_windows, distance_figure, frechet_figure
from acestep.evaluation.recordings import MAX_HEARD_S, DatasetParts
from acestep.evaluation.side_by_side import Comparison, Take
from acestep.families.base import RepresentationSource
from acestep.pipeline import ACEStepPipeline, GenerationResult

Floats = NDArray[np.float64]
Found = Sequence[Finding | tuple[str, str]]

CLAP_ID = "laion/larger_clap_music"
CLAP_RATE, CLAP_WINDOW_S = 48000, 10.0
MERT = RepresentationSource("MERT", "m-a-p/MERT-v1-330M", 24000, 5.0, 1024)
WINDOW_S = 5.0


@dataclass(frozen=True)
class DeepEncoder:
    """A named encoder. embed: mono audio (samples,) float32 at `sample_rate` -> (windows, dims) float64."""

    name: str
    sample_rate: int
    embed: Callable[[NDArray[np.float32]], Floats]


def load_clap(folder: Path | None = None) -> DeepEncoder:
    """From a folder, or from the hub's cache; MissingWeightsError says how to get it, CheckpointError what is wrong."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from transformers import ClapFeatureExtractor, ClapModel

    if folder is None:
        try:
            folder = Path(snapshot_download(CLAP_ID, local_files_only=True))
        except LocalEntryNotFoundError:
            raise MissingWeightsError(
                f"{CLAP_ID} (0.8 GB) is not on this machine; get it with: hf download {CLAP_ID}"
            ) from None
    if not (folder / "model.safetensors").is_file():
        # A pickle can run any code when it is read.
        raise MissingWeightsError(f"{folder} holds no model.safetensors; get CLAP's weights in that form")
    try:
        extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        model: Any = ClapModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is no CLAP model that transformers reads: {error}") from error
    model.eval().requires_grad_(False)

    def embed(audio: NDArray[np.float32]) -> Floats:
        windows = []
        for part in _windows(audio, round(CLAP_WINDOW_S * extractor.sampling_rate)):
            # "repeat" pads short windows as CLAP was trained; its random cut is never needed for whole ones.
            given = extractor(
                part, sampling_rate=extractor.sampling_rate, padding="repeatpad", truncation="rand_trunc",
                return_tensors="pt",
            )  # fmt: skip
            with torch.no_grad():
                found = model.get_audio_features(**given)
            found = getattr(found, "pooler_output", found)
            windows.append(torch.nn.functional.normalize(found[0].double(), dim=-1).numpy())
        return np.stack(windows)

    return DeepEncoder("CLAP", extractor.sampling_rate, embed)


def load_mert(folder: Path | None = None, *, source: RepresentationSource = MERT) -> DeepEncoder:
    """From a folder, or from the hub's cache; raises as `RepresentationEncoder.load`."""
    encoder = RepresentationEncoder.load(source, folder=folder)
    size = max(1, round(WINDOW_S * encoder.frame_rate))

    def embed(audio: NDArray[np.float32]) -> Floats:
        states = encoder.encode(torch.from_numpy(audio)).double().numpy()
        return np.stack([part.mean(0) for part in _windows(states, size)])

    return DeepEncoder(source.name, source.sample_rate, embed)


class DeepEmbeddingListener(Listener):
    """Distances to held-out recordings by one encoder. load: what gives it, or raises MissingWeightsError."""

    def __init__(self, name: str, load: Callable[[], DeepEncoder], held_out: LatentDataset | None) -> None:
        self.name, self.title = name, f"Embeddings of {name}"
        self._load, self._held_out = load, held_out
        self._encoder: DeepEncoder | None = None
        self._why = "" if held_out is not None else "it needs held-out recordings of a dataset"
        self._windows: dict[tuple[Any, int, float], Floats] = {}

    def begin(self, pipeline: ACEStepPipeline) -> None:
        if self._why:
            return
        try:
            self._encoder = self._load()
        except AceStepError as error:
            self._why = str(error)

    def hear(self, comparison: Comparison, take: Take, song: GenerationResult) -> None:
        if self._encoder is not None:
            found = embed_song(self._encoder, song.audio.numpy(), song.sample_rate)
            self._windows[comparison.prompt, comparison.seed, take.strength] = found

    def finish(
        self, pipeline: ACEStepPipeline, lora: str, comparisons: Sequence[Comparison], progress: Progress
    ) -> Found:
        if self._encoder is None or self._held_out is None:
            return [(f"{self.name} embeddings", self._why)]
        recordings = list(_recordings(self._encoder, pipeline, self._held_out, progress))
        figures: list[tuple[float, Figure]] = []
        for strength in sorted({take.strength for one in comparisons for take in one.takes} - {0.0}):
            try:
                heard = [self._of(one, strength) for one in comparisons if self._has(one, strength)]
                figures += [(strength, figure) for figure in deep_figures(self.name, heard, strength, recordings)]
            except InputError as error:
                return [(f"{self.name} embeddings", str(error))]
        if not figures:
            return [(f"{self.name} embeddings", "no pair of songs could be heard")]
        rows = [
            (
                figure.name,
                f"{strength:g}",
                f"{figure.base:.3g}",
                f"{figure.adapted:.3g}",
                f"{figure.change.value:+.3g} ({figure.change.low:+.3g} to {figure.change.high:+.3g})",
                figure.verdict,
            )
            for strength, figure in figures
        ]
        nearer = sorted({f"{strength:g}" for strength, figure in figures if figure.change.falls})
        says = (
            f"Nearer to the style beyond doubt at {', '.join(nearer)}."
            if nearer
            else "No strength is nearer beyond doubt."
        )
        details = {"figures": [{"strength": strength, **figure.as_dict()} for strength, figure in figures]}
        columns = ("Lower is nearer", "Strength", "Base", "LoRA", "Change, 95 % interval", "Reads as")
        return [Finding(self.name.lower(), f"Style by {self.name}", says, columns=columns, rows=rows, details=details)]

    def _has(self, comparison: Comparison, strength: float) -> bool:
        return all((comparison.prompt, comparison.seed, at) in self._windows for at in (0.0, strength))

    def _of(self, comparison: Comparison, strength: float) -> Comparison:
        """The same songs with this encoder's windows in place of our own statistics."""
        takes = [
            replace(take, windows=self._windows[comparison.prompt, comparison.seed, take.strength])
            for take in comparison.takes
            if take.strength in (0.0, strength)
        ]
        return replace(comparison, takes=tuple(takes))


def deep_listeners(parts: DatasetParts | None) -> list[Listener]:
    """One for each encoder; those without weights say so in what is left out."""
    held_out = parts.held_out if parts is not None else None
    return [
        DeepEmbeddingListener("CLAP", load_clap, held_out),
        DeepEmbeddingListener("MERT", load_mert, held_out),
    ]


def deep_figures(
    name: str, comparisons: Sequence[Comparison], strength: float, recordings: Sequence[Floats]
) -> list[Figure]:
    """Style distance, and the Fréchet distance where there are windows enough, on another embedding."""
    if not comparisons:
        return []
    found = [distance_figure(comparisons, strength, recordings)]
    if count_windows(comparisons, recordings) >= FRECHET_WINDOWS:
        found.append(frechet_figure(comparisons, strength, recordings))
    return [
        replace(figure, key=f"{name.lower()}_{figure.key}", name=f"{figure.name} by {name}", note="")
        for figure in found
    ]


def embed_song(encoder: DeepEncoder, audio: NDArray[np.floating], sample_rate: int) -> Floats:
    """audio: (channels, samples) -> (windows, dims) float64"""
    mono = np.asarray(audio, dtype=np.float32).mean(0)
    resampled = soxr.resample(mono, sample_rate, encoder.sample_rate)
    return encoder.embed(np.asarray(resampled, dtype=np.float32))


def _recordings(
    encoder: DeepEncoder, pipeline: ACEStepPipeline, held_out: LatentDataset, progress: Progress
) -> Iterator[Floats]:
    """As the base's own codec renders them, like the songs."""
    family = pipeline.family
    limit = family.latent_frames(MAX_HEARD_S)
    for done, track in enumerate(held_out.tracks, start=1):
        latents = read_frames(track.latents, "latents", 0, min(track.frames, limit))
        with torch.no_grad():
            audio = family.decode_latents(latents.unsqueeze(0).to(family.device))[0].float().cpu().numpy()
        yield embed_song(encoder, audio, family.sample_rate)
        progress(done, len(held_out.tracks))


def _windows(values: NDArray[Any], size: int) -> list[NDArray[Any]]:
    """Whole windows along the first axis, half overlapping; what is shorter than one is one."""
    last = max(len(values) - size, 0)
    return [values[start : start + size] for start in range(0, last + 1, max(size // 2, 1))]
