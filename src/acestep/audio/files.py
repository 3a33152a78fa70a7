"""Recordings in and out of files: read as float32 at one rate, written whole or not at all, with tags."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import mutagen.flac
import mutagen.id3
import mutagen.mp3
import mutagen.oggvorbis
import mutagen.wave
import numpy as np
import soundfile
import soxr
from mutagen import MutagenError
from numpy.typing import NDArray

from acestep.errors import AudioError

Audio = NDArray[np.float32]
"""(channels, samples)"""

MAX_DURATION_S = 3600.0
"""A longer recording is refused unless the caller allows it: a small file can decode to gigabytes."""
READABLE = (".wav", ".flac", ".mp3", ".ogg", ".m4a", ".aac", ".opus", ".aiff", ".aif")
WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK = 65536
_SIDE_GAIN = 10 ** (-3 / 20)


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself, without decoding it; a duration of 0 means that it does not say."""

    duration_s: float
    sample_rate: int
    channels: int
    format: str


def probe(path: str | Path) -> AudioInfo:
    """Rate, channels and length from the header. Raises AudioError where there is no audio."""
    path = _checked(path)
    with contextlib.suppress(soundfile.LibsndfileError):
        info = soundfile.info(str(path))
        return AudioInfo(info.frames / info.samplerate, info.samplerate, info.channels, info.format.lower())
    with _opened(path) as (container, stream):
        duration_s = float(container.duration or 0) / av.time_base
        return AudioInfo(duration_s, stream.sample_rate, stream.channels, container.format.name)


def read_audio(
    path: str | Path, *, sample_rate: int = 44100, channels: int = 2, max_duration_s: float | None = None
) -> Audio:
    """Decode a file -> (channels, samples) float32 at `sample_rate`.

    Mono is copied to both sides; of more than two channels, each further one goes to both sides 3 dB lower.
    Raises AudioError for what is missing, empty, no audio, damaged, not finite, or longer than `max_duration_s` (an
    hour when None).
    """
    path = _checked(path)
    limit_s = MAX_DURATION_S if max_duration_s is None else max_duration_s
    try:
        audio, rate = _read_soundfile(path, limit_s)
    except soundfile.LibsndfileError:
        audio, rate = _read_av(path, limit_s)
    if audio.shape[1] == 0:
        raise AudioError(f"{path} holds no samples; record or export it again")
    if not np.isfinite(audio).all():
        raise AudioError(f"{path} holds samples that are no numbers (NaN or infinite); export it again")
    mixed = _mix(audio, channels)
    return mixed if rate == sample_rate else resample(mixed, rate, sample_rate)


def resample(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """(channels, samples) at one rate to another, by soxr at high quality."""
    resampled: Audio = soxr.resample(audio.T, from_rate, to_rate, quality="HQ").T.astype(np.float32)
    return np.ascontiguousarray(resampled)


def write_audio(path: str | Path, audio: Audio, sample_rate: int, *, tags: Mapping[str, str] | None = None) -> Path:
    """Write (channels, samples) in [-1, 1], louder is clipped, as wav, flac (both 16 bit), ogg or mp3, by the path's
    extension.

    The file appears whole or not at all. Tags "title" and "comment" go where players show them, others under their
    own names.
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
    path = _checked(path)
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


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path} is a folder; give an audio file")
    if not path.is_file():
        raise AudioError(f"{path} is not there; check the name")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); record or export it again")
    return path


def _read_soundfile(path: Path, limit_s: float) -> tuple[Audio, int]:
    with soundfile.SoundFile(str(path)) as file:
        rate = file.samplerate
        decoded = file.blocks(_BLOCK, dtype="float32", always_2d=True)
        blocks = list(_limited(decoded, path, limit_s, rate))
        expected, found = file.frames, sum(len(block) for block in blocks)
    if found < expected:
        raise AudioError(f"{path} is cut off: {found} of {expected} samples can be read; export it again")
    return (np.concatenate(blocks).T if blocks else np.zeros((1, 0), np.float32)), rate


def _read_av(path: Path, limit_s: float) -> tuple[Audio, int]:
    """Through FFmpeg's libraries, for what libsndfile does not know: m4a, aac, opus in other wrappers."""
    with _opened(path) as (container, stream):
        rate, layout = stream.sample_rate, stream.layout.name
        to_float = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        try:
            decoded: Iterator[Any] = (
                part.to_ndarray().T for frame in container.decode(stream) for part in to_float.resample(frame)
            )
            blocks = list(_limited(decoded, path, limit_s, rate))
        except av.FFmpegError as error:
            raise AudioError(f"{path} is damaged ({error}); export it again") from error
    return (np.concatenate(blocks).T.astype(np.float32) if blocks else np.zeros((1, 0), np.float32)), rate


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.audio.AudioStream]]:
    try:
        # Only a file: a playlist must not make the demuxer open what it names.
        container = av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(
            f"{path} is no audio file that can be read ({error}); known are {', '.join(READABLE)}"
        ) from error
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path} holds no audio; known are {', '.join(READABLE)}")
        yield container, container.streams.audio[0]


def _limited(blocks: Iterator[Audio], path: Path, limit_s: float, rate: int) -> Iterator[Audio]:
    """The blocks as they come, until there are more than the limit: what a header promises is not relied on."""
    samples = 0
    for block in blocks:
        samples += len(block)
        if samples > limit_s * rate + rate:
            raise AudioError(f"{path} is longer than {limit_s:g} s; split it into shorter files")
        yield block


def _mix(audio: Audio, channels: int) -> Audio:
    if audio.shape[0] == channels:
        return np.ascontiguousarray(audio)
    if channels == 1:
        mono: Audio = audio.mean(axis=0, keepdims=True)
        return mono
    if audio.shape[0] == 1:
        return np.repeat(audio, channels, axis=0)
    sides = audio[:2] + _SIDE_GAIN * audio[2:].sum(axis=0)
    loudest = max(1.0, float(np.abs(sides).max()))
    mixed: Audio = (sides / loudest).astype(np.float32)
    return mixed


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
