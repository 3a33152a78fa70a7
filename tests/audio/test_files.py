from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from acestep.audio.files import probe, read_audio, read_tags, write_audio
from acestep.errors import AudioError

RATE = 44100


def tone(
    duration_s: float = 1.0, *, rate: int = RATE, frequencies: tuple[float, ...] = (440.0, 660.0)
) -> NDArray[np.float32]:
    time = np.arange(int(duration_s * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * frequency * time) for frequency in frequencies]).astype(np.float32)


@pytest.mark.parametrize(("suffix", "error"), [(".wav", 4e-5), (".flac", 4e-5), (".ogg", 0.05), (".mp3", 0.05)])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, error: float) -> None:
    audio = tone()
    path = write_audio(tmp_path / f"söng with spaces{suffix}", audio, RATE)
    back = read_audio(path)
    assert back.dtype == np.float32
    assert abs(back.shape[1] - audio.shape[1]) <= 2304  # mp3 pads to its frames
    middle = slice(RATE // 4, RATE // 2)
    assert np.abs(back[:, middle] - audio[:, middle]).max() < error


def test_m4a_is_read_through_ffmpeg(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(tone(), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    audio = read_audio(path)
    assert audio.shape[0] == 2
    assert abs(audio.shape[1] / RATE - 1) < 0.1
    spectrum = np.abs(np.fft.rfft(audio[0, : RATE // 2]))
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)
    assert probe(path).sample_rate == RATE


def test_rates_are_converted_and_mono_is_doubled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "mono.wav", tone(rate=22050)[0], 22050)
    audio = read_audio(tmp_path / "mono.wav")
    assert audio.shape == (2, RATE)
    assert np.array_equal(audio[0], audio[1])
    assert np.abs(audio[0, 1000:-1000] - tone()[0, 1000:-1000]).max() < 1e-3


def test_surround_keeps_its_centre(tmp_path: Path) -> None:
    silence = np.zeros(RATE, np.float32)
    soundfile.write(tmp_path / "surround.wav", np.stack([silence, silence, tone()[0]], axis=1), RATE)
    audio = read_audio(tmp_path / "surround.wav")
    assert np.abs(audio).max() == pytest.approx(0.5 * 10 ** (-3 / 20), rel=1e-3)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_tags_survive_in_every_format(tmp_path: Path, suffix: str) -> None:
    tags = {
        "title": "lofi, ‘A minor’",
        "comment": "made by a model",
        "ACESTEP_RECIPE": '{"seed": 42, "lyrics": "[verse]\\nhé"}',
    }
    path = write_audio(tmp_path / f"song{suffix}", tone(), RATE, tags=tags)
    assert {name: read_tags(path)[name] for name in tags} == tags
    assert read_audio(path).shape[0] == 2


def test_louder_than_full_scale_is_clipped_not_wrapped(tmp_path: Path) -> None:
    back = read_audio(write_audio(tmp_path / "loud.wav", 4 * tone(), RATE))
    assert np.abs(back).max() <= 1
    assert np.corrcoef(back[0], tone()[0])[0, 1] > 0.8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", "is empty"),
        ("text.wav", b"not music at all" * 50, "no audio file"),
        ("pickle.mp3", b"\x80\x04\x95" + b"\x00" * 200, "no audio file"),
        ("playlist.m4a", b"#EXTM3U\nhttp://127.0.0.1:9/x.mp3\n", "no audio"),
        ("header.flac", b"RIFF", "no audio"),
    ],
)
def test_what_is_no_audio_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=message) as raised:
        read_audio(tmp_path / name)
    assert name in str(raised.value)


def test_missing_files_folders_and_no_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="not there"):
        read_audio(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)
    soundfile.write(tmp_path / "no samples.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "no samples.wav")


def test_numbers_that_are_no_sound_are_refused(tmp_path: Path) -> None:
    audio = tone()
    audio[0, 5] = np.nan
    soundfile.write(tmp_path / "nan.wav", audio.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="no numbers"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(AudioError, match="finite"):
        write_audio(tmp_path / "out.wav", audio, RATE)


def test_a_file_that_decodes_to_too_much_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros((8000 * 60, 1)), 8000)
    with pytest.raises(AudioError, match="longer than 30 s"):
        read_audio(tmp_path / "long.flac", max_duration_s=30)


def test_nothing_half_written_stays_behind(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"\.txt"):
        write_audio(tmp_path / "song.txt", tone(), RATE)
    (tmp_path / "song.wav").mkdir()
    with pytest.raises(AudioError, match="could not be written"):
        write_audio(tmp_path / "song.wav", tone(), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
