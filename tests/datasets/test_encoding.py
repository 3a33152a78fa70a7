from pathlib import Path

import pytest
import soundfile
import torch

from acestep.datasets.encoding import encode_recording, encode_windows
from acestep.errors import AudioError
from small_family import HOP, SmallFamily, write_tone


def test_windows_give_what_the_whole_gives_and_stay_in_bounds():
    family = SmallFamily()
    audio = torch.rand(2, 200 * HOP + 100) * 2 - 1
    longest = 0

    class Watched(SmallFamily):
        def encode_audio(self, audio: torch.Tensor) -> torch.Tensor:
            nonlocal longest
            longest = max(longest, audio.shape[-1])
            return super().encode_audio(audio)

    window_s, context_s = 30 / family.latent_rate, 4 / family.latent_rate
    pieces = encode_windows(Watched(), iter(audio.split(7777, dim=1)), hop=HOP, window_s=window_s, context_s=context_s)
    torch.testing.assert_close(torch.cat(list(pieces), dim=-1), family.encode_audio(audio.unsqueeze(0))[0])
    assert longest <= 30 * HOP


@pytest.mark.parametrize("frames", [29, 30, 31, 52, 53])
def test_no_frame_is_lost_or_doubled_where_windows_end(frames: int):
    family = SmallFamily()
    audio = torch.rand(2, frames * HOP)
    pieces = encode_windows(
        family, iter([audio]), hop=HOP, window_s=30 / family.latent_rate, context_s=4 / family.latent_rate
    )
    assert torch.cat(list(pieces), dim=-1).shape[-1] == frames


def test_a_frame_that_the_recording_does_not_fill_is_left_out(tmp_path: Path):
    write_tone(tmp_path / "a.wav", 3.0)
    assert encode_recording(SmallFamily(), tmp_path / "a.wav").shape == (8, 16, 3 * 44100 // HOP)


def test_silence_and_specks_are_refused(tmp_path: Path):
    soundfile.write(str(tmp_path / "silent.wav"), torch.zeros(44100, 2).numpy(), 44100)
    with pytest.raises(AudioError, match="100% of it is silence"):
        encode_recording(SmallFamily(), tmp_path / "silent.wav")
    write_tone(tmp_path / "speck.wav", 0.05)
    with pytest.raises(AudioError, match="shorter than one latent frame"):
        encode_recording(SmallFamily(), tmp_path / "speck.wav")
