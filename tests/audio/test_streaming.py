from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from acestep.audio.streaming import duration_s, stream_recording
from acestep.errors import AudioError
from small_family import write_tone


def read(path: Path, rate: int = 44100) -> torch.Tensor:
    return torch.cat([torch.from_numpy(block) for block in stream_recording(path, rate)], dim=1)


def write_m4a(path: Path, wave: np.ndarray, rate: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave, np.float32), format="fltp", layout="stereo")
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def test_a_wav_at_the_wanted_rate_comes_through_untouched_across_blocks(tmp_path: Path):
    wave = np.random.default_rng(0).uniform(-1, 1, (44100 * 12, 2)).astype(np.float32)
    soundfile.write(str(tmp_path / "a.wav"), wave, 44100, subtype="FLOAT")
    assert torch.equal(read(tmp_path / "a.wav"), torch.from_numpy(wave.T))


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
def test_every_kind_of_file_reads(tmp_path: Path, kind: str):
    write_tone(tmp_path / f"a.{kind}", 2.0)
    audio = read(tmp_path / f"a.{kind}")
    assert audio.shape[0] == 2
    assert audio.shape[1] == pytest.approx(88200, abs=3000)
    assert 0.1 < float(audio.abs().max()) < 0.4


def test_m4a_reads_through_ffmpeg(tmp_path: Path):
    time = np.arange(88200) / 44100
    write_m4a(tmp_path / "a.m4a", 0.3 * np.stack([np.sin(440 * time)] * 2), 44100)
    assert duration_s(tmp_path / "a.m4a") == pytest.approx(2.0, abs=0.1)
    assert read(tmp_path / "a.m4a").shape[1] == pytest.approx(88200, abs=3000)


def test_mono_is_doubled_and_resampled_to_the_wanted_rate(tmp_path: Path):
    write_tone(tmp_path / "a.wav", 1.0, rate=22050, channels=1, frequency=440)
    audio = read(tmp_path / "a.wav")
    assert audio.shape[1] == pytest.approx(44100, abs=2)
    assert torch.equal(audio[0], audio[1])
    spectrum = torch.fft.rfft(audio[0]).abs()
    assert int(spectrum.argmax()) * 44100 / audio.shape[1] == pytest.approx(440, abs=2)


def test_samples_beyond_full_scale_are_clamped(tmp_path: Path):
    soundfile.write(str(tmp_path / "a.wav"), np.full((1000, 2), 1.5), 44100, subtype="FLOAT")
    assert float(read(tmp_path / "a.wav").max()) == 1.0


def test_numbers_that_are_no_sound_are_refused(tmp_path: Path):
    soundfile.write(str(tmp_path / "a.wav"), np.full((1000, 2), np.nan), 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match="no numbers"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_garbage_is_an_audio_error_in_both_readers(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"garbage" * 100)
    for look in (duration_s, read):
        with pytest.raises(AudioError):
            look(tmp_path / name)
