"""Recordings a block at a time, however long they are: decoded, checked, stereo float32 at one rate.

libsndfile reads wav, flac, ogg and mp3; what it does not know goes to FFmpeg's libraries. Errors say what is wrong with
"it"; who calls knows which recording is meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from acestep.audio.cut_off import missing_bytes
from acestep.errors import AudioError

Audio = NDArray[np.float32]
"""(channels, samples)"""

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".m4a"})
"""What a folder is searched for; other files are read as well where they are named."""
BLOCK_S = 10.0
_SURE_OF_MP3 = 0.98
_SIDE_GAIN = 10 ** (-3 / 20)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; a duration of 0 means that it does not say."""

    duration_s: float
    sample_rate: int
    channels: int
    format: str


def audio_info(path: Path) -> AudioInfo:
    """Rate, channels and length, without decoding. Raises AudioError for what is missing, empty or no audio."""
    _check_file(path)
    with contextlib.suppress(soundfile.LibsndfileError):
        info = soundfile.info(str(path))
        return AudioInfo(info.frames / info.samplerate, info.samplerate, info.channels, info.format.lower())
    with _ffmpeg_opened(path) as container:
        stream = container.streams.audio[0]
        duration_s = (container.duration or 0) / av.time_base
        return AudioInfo(duration_s, stream.rate, stream.channels, container.format.name)


def duration_s(path: Path) -> float:
    """Seconds, from the header; AudioError for a recording without any."""
    seconds = audio_info(path).duration_s
    if seconds <= 0:
        raise AudioError("it has no audio in it")
    return seconds


def stream_recording(path: Path, sample_rate: int) -> Iterator[Audio]:
    """Blocks of (2, samples) at `sample_rate`, clipped to [-1, 1].

    Mono is doubled; of more than two channels, each further one goes to both sides, 3 dB lower.
    Raises AudioError where the file cannot be read, breaks off or holds numbers that are no sound.
    """
    _check_file(path)
    if missing := missing_bytes(path):
        raise AudioError(f"it is cut off: the last {missing} bytes are missing; copy or export it again")
    source, blocks = _opened(path)
    stream = None if source == sample_rate else soxr.ResampleStream(source, sample_rate, 2, dtype="float32")
    try:
        for block in blocks:
            if not np.isfinite(block).all():
                raise AudioError("it holds samples that are no numbers (NaN or infinite); export it again")
            stereo = _stereo(block)
            resampled = stereo if stream is None else stream.resample_chunk(stereo)
            if len(resampled):
                yield _clipped(resampled)
        if stream is not None and len(rest := stream.resample_chunk(np.zeros((0, 2), np.float32), last=True)):
            yield _clipped(rest)
    except (OSError, RuntimeError, av.FFmpegError) as error:
        raise AudioError(f"it is damaged ({error}); export it again") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise AudioError("it is a folder; give an audio file")
    if not path.is_file():
        raise AudioError("it is not there; check the name")
    if path.stat().st_size == 0:
        raise AudioError("it is empty (0 bytes); record or export it again")


def _opened(path: Path) -> tuple[int, Iterator[Audio]]:
    """(sample rate, blocks of (samples, channels))"""
    with contextlib.suppress(soundfile.LibsndfileError):
        info = soundfile.info(str(path))
        return info.samplerate, _soundfile_blocks(path, info)
    with _ffmpeg_opened(path) as container:
        rate = container.streams.audio[0].rate
    return rate, _ffmpeg_blocks(path)


def _soundfile_blocks(path: Path, info: soundfile._SoundFileInfo) -> Iterator[Audio]:
    found = 0
    size = int(BLOCK_S * info.samplerate)
    with soundfile.SoundFile(str(path)) as file:
        # Not soundfile.blocks, which fills up what it could not read.
        while len(block := file.read(size, dtype="float32", always_2d=True)):
            found += len(block)
            yield block
    # An mp3's length is an estimate where its header does not tell it.
    if found < info.frames * (_SURE_OF_MP3 if info.format == "MP3" else 1):
        raise AudioError(f"it is cut off: {found} of {info.frames} samples can be read; export it again")


def _ffmpeg_blocks(path: Path) -> Iterator[Audio]:
    with _ffmpeg_opened(path) as container:
        stream = container.streams.audio[0]
        to_float = av.AudioResampler(format="fltp", layout=stream.layout.name, rate=stream.rate)
        for frame in container.decode(stream):
            for converted in to_float.resample(frame):
                yield converted.to_ndarray().T.astype(np.float32)


@contextlib.contextmanager
def _ffmpeg_opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        # Only files: a playlist must not make the demuxer open an address that it names.
        container = av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        known = ", ".join(sorted(AUDIO_SUFFIXES))
        raise AudioError(f"it is no audio file that can be read ({error}); known are {known}") from error
    with container:
        # A file cut off in its header can open as audio of no rate.
        if not container.streams.audio or not container.streams.audio[0].rate:
            raise AudioError("it has no audio in it")
        yield container


def _stereo(block: Audio) -> Audio:
    if block.shape[1] == 1:
        return np.repeat(block, 2, axis=1)
    if block.shape[1] == 2:
        return block
    sides: Audio = block[:, :2] + np.float32(_SIDE_GAIN) * block[:, 2:].sum(axis=1, keepdims=True)
    return sides


def _clipped(block: Audio) -> Audio:
    return np.ascontiguousarray(np.clip(block, -1, 1).T)
