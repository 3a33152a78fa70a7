"""Recordings as the trainer reads them: stereo float32 at one rate, a block at a time, however long they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from acestep.errors import AudioError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".m4a"})
BLOCK_S = 10.0

# What libsndfile does not read goes to FFmpeg.
_THROUGH_FFMPEG = frozenset({".m4a"})

Block = npt.NDArray[np.float32]


def duration_s(path: Path) -> float:
    """Seconds, from the file's header; AudioError for an unreadable or empty file."""
    try:
        if path.stat().st_size == 0:
            raise AudioError("the file is empty")
        if path.suffix.lower() in _THROUGH_FFMPEG:
            with av.open(str(path)) as container:
                seconds = (container.duration or 0) / av.time_base if container.streams.audio else 0.0
        else:
            info = soundfile.info(str(path))
            seconds = info.frames / info.samplerate
    except (OSError, RuntimeError, av.FFmpegError) as error:
        raise AudioError(f"it cannot be read as audio: {error}") from error
    if seconds <= 0:
        raise AudioError("it has no audio in it")
    return float(seconds)


def stream_recording(path: Path, sample_rate: int) -> Iterator[Tensor]:
    """Blocks of (2, samples) float32 at `sample_rate`, in [-1, 1]; mono is doubled, of more channels two are taken.

    Raises AudioError where the file breaks off or holds numbers that are no sound.
    """
    try:
        source, blocks = _open(path)
        stream = None if source == sample_rate else soxr.ResampleStream(source, sample_rate, 2, dtype="float32")
        for block in blocks:
            if not np.isfinite(block).all():
                raise AudioError("it holds samples that are not finite")
            resampled = block if stream is None else stream.resample_chunk(block)
            if len(resampled):
                yield _as_tensor(resampled)
        if stream is not None and len(rest := stream.resample_chunk(np.zeros((0, 2), np.float32), last=True)):
            yield _as_tensor(rest)
    except (OSError, RuntimeError, av.FFmpegError) as error:
        raise AudioError(f"it cannot be read as audio: {error}") from error


def _open(path: Path) -> tuple[int, Iterator[Block]]:
    """(sample rate, stereo blocks of (samples, 2))"""
    if path.suffix.lower() in _THROUGH_FFMPEG:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError("it has no audio in it")
            rate = container.streams.audio[0].rate
        return rate, _ffmpeg_blocks(path, rate)
    rate = soundfile.info(str(path)).samplerate
    blocks = soundfile.blocks(str(path), blocksize=int(BLOCK_S * rate), dtype="float32", always_2d=True)
    return rate, (_stereo(block) for block in blocks)


def _ffmpeg_blocks(path: Path, rate: int) -> Iterator[Block]:
    to_stereo = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            for converted in to_stereo.resample(frame):
                yield np.ascontiguousarray(converted.to_ndarray().T, dtype=np.float32)


def _stereo(block: Block) -> Block:
    return np.repeat(block, 2, axis=1) if block.shape[1] == 1 else np.ascontiguousarray(block[:, :2])


def _as_tensor(block: Block) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(block.T)).clamp(-1, 1)
