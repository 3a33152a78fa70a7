import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestep.audio.cut_off import missing_bytes
from acestep.audio.streaming import stream_recording
from acestep.errors import AudioError

KINDS = {"wav": "PCM_16", "ogg": "VORBIS"}


def recording(folder: Path, suffix: str) -> Path:
    path = folder / f"a.{suffix}"
    noise = np.random.default_rng(0).standard_normal((44100 * 3, 2)) / 10
    soundfile.write(path, noise, 44100, subtype=KINDS[suffix])
    return path


@pytest.mark.parametrize("suffix", KINDS)
def test_a_whole_recording_lacks_nothing(tmp_path: Path, suffix: str):
    assert missing_bytes(recording(tmp_path, suffix)) == 0


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77])
def test_a_recording_that_broke_off_is_an_error_and_not_a_shorter_one(tmp_path: Path, suffix: str, share: float):
    path = recording(tmp_path, suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert missing_bytes(path) > 0
    with pytest.raises(AudioError, match="cut off"):
        list(stream_recording(path, 44100))


@pytest.mark.parametrize("share", [0.3, 0.77])
def test_an_mp3_that_broke_off_is_an_error_and_not_filled_up(tmp_path: Path, share: float):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).standard_normal((44100 * 3, 2)) / 10, 44100, format="MP3")
    assert sum(block.shape[1] for block in stream_recording(path, 44100)) == 44100 * 3
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AudioError, match="cut off"):
        list(stream_recording(path, 44100))


@pytest.mark.parametrize("told", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_does_not_know_its_size_and_is_whole(tmp_path: Path, told: int):
    path = recording(tmp_path, "wav")
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", told)
    path.write_bytes(data)
    assert missing_bytes(path) == 0


@pytest.mark.parametrize("data", [b"", b"RIFF", b"OggS", b"OggS" + bytes(40), b"fLaC" + bytes(100)])
def test_what_is_no_recording_does_not_trouble_it(tmp_path: Path, data: bytes):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    assert missing_bytes(path) >= 0
