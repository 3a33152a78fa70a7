"""Recordings in and out of files: read as float32 at one rate, written whole or not at all, with tags."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import mutagen.flac
import mutagen.id3
import mutagen.mp3
import mutagen.oggvorbis
import mutagen.wave
import numpy as np
import soundfile
from mutagen import MutagenError

from acestep.audio.streaming import Audio, AudioInfo, audio_info, stream_recording
from acestep.errors import AudioError

MAX_DURATION_S = 3600.0
"""A longer recording is refused unless the caller allows it: a small file can decode to gigabytes."""
WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK = 65536


def probe(path: str | Path) -> AudioInfo:
    """Rate, channels and length from the header. Raises AudioError, naming the file, where there is no audio."""
    with _named(path):
        return audio_info(Path(path))


def read_audio(
    path: str | Path, *, sample_rate: int = 44100, channels: int = 2, max_duration_s: float | None = None
) -> Audio:
    """Decode a file -> (channels, samples) float32 at `sample_rate`, in [-1, 1]; channels are 1 or 2.

    Raises AudioError, naming the file, for what is missing, empty, no audio, damaged, not finite, or longer than
    `max_duration_s` (an hour when None). See `streaming.stream_recording` for how channels are mixed.
    """
    limit_s = MAX_DURATION_S if max_duration_s is None else max_duration_s
    with _named(path):
        blocks = list(_limited(stream_recording(Path(path), sample_rate), limit_s, sample_rate))
        if not blocks:
            raise AudioError("it holds no samples; record or export it again")
    audio = np.concatenate(blocks, axis=1)
    return audio if channels == 2 else audio.mean(axis=0, keepdims=True, dtype=np.float32)


def write_audio(path: str | Path, audio: Audio, sample_rate: int, *, tags: Mapping[str, str] | None = None) -> Path:
    """Write (channels, samples) as wav, flac (both 16 bit), ogg or mp3, by the path's extension.

    What is beyond [-1, 1] is clipped. The file appears whole or not at all. Tags "title" and "comment" go where players
    show them, others under their own names.
    """
    path = Path(path)
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise AudioError(f"{path.name} ends in {path.suffix or 'nothing'!r}; give one of {', '.join(WRITABLE)}")
    if audio.ndim != 2 or audio.shape[1] == 0 or not np.isfinite(audio).all():
        raise AudioError(
            f"audio for {path.name} has shape {audio.shape}; expected (channels, samples), finite and not empty"
        )
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_samples(partial, np.clip(audio, -1, 1).T, sample_rate, *kind)
        if tags:
            _write_tags(partial, path.suffix.lower(), tags)
        partial.replace(path)
    except (OSError, soundfile.LibsndfileError, MutagenError) as error:
        raise AudioError(
            f"{path} could not be written ({error}); check the disk's space and the folder's rights"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_tags(path: str | Path) -> dict[str, str]:
    """A file's tags: "title" and "comment" in lower case, others in capitals. Empty where it has none."""
    try:
        file = mutagen.File(path)
    except MutagenError as error:
        raise AudioError(f"the tags of {path} cannot be read ({error})") from error
    if file is None or file.tags is None:
        return {}
    if isinstance(file.tags, mutagen.id3.ID3):
        frames = {frame.desc.upper(): str(frame.text[0]) for frame in file.tags.getall("TXXX")}
        plain = {"title": file.tags.getall("TIT2"), "comment": file.tags.getall("COMM")}
        return {**frames, **{name: str(found[0].text[0]) for name, found in plain.items() if found}}
    return {_tag_name(name): values[0] for name, values in file.tags.as_dict().items()}


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error


def _limited(blocks: Iterator[Audio], limit_s: float, rate: int) -> Iterator[Audio]:
    """The blocks as they come, until there are more than the limit: what a header promises is not relied on."""
    samples = 0
    for block in blocks:
        samples += block.shape[1]
        if samples > limit_s * rate + rate:
            raise AudioError(f"it is longer than {limit_s:g} s; split it into shorter files")
        yield block


def _write_samples(path: Path, samples: Audio, sample_rate: int, container: str, subtype: str) -> None:
    with soundfile.SoundFile(
        str(path), "w", samplerate=sample_rate, channels=samples.shape[1], format=container, subtype=subtype
    ) as file:
        # In blocks: libsndfile's Vorbis encoder puts a whole write on its stack and overflows it with long songs.
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])


def _write_tags(path: Path, suffix: str, tags: Mapping[str, str]) -> None:
    if suffix in (".flac", ".ogg"):
        comments = mutagen.flac.FLAC(path) if suffix == ".flac" else mutagen.oggvorbis.OggVorbis(path)
        comments.update({name: [value] for name, value in tags.items()})
        comments.save()
        return
    file = mutagen.mp3.MP3(path) if suffix == ".mp3" else mutagen.wave.WAVE(path)
    if file.tags is None:
        file.add_tags()
    for name, value in tags.items():
        if name == "title":
            file.tags.add(mutagen.id3.TIT2(encoding=3, text=value))
        elif name == "comment":
            file.tags.add(mutagen.id3.COMM(encoding=3, lang="eng", desc="", text=value))
        else:
            file.tags.add(mutagen.id3.TXXX(encoding=3, desc=name, text=value))
    file.save()


def _tag_name(name: str) -> str:
    return name.lower() if name.lower() in ("title", "comment") else name.upper()
