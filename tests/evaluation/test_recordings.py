from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from acestep.errors import AudioError, DatasetError, InputError
from acestep.evaluation.embedding import DIMENSIONS
from acestep.evaluation.recordings import find_recordings, read_held_out, read_start
from small_family import HOP, SmallFamily, write_dataset, write_tone


class HearableFamily(SmallFamily):
    """Decodes to a tone that is as loud as the latents say."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        level = latents.flatten(1, 2).square().mean(1).sqrt().repeat_interleave(HOP, dim=-1)
        return (level * torch.sin(torch.arange(level.shape[-1]) * 0.05)).unsqueeze(1).expand(-1, 2, -1)


def test_a_dataset_folder_gives_embeddings_and_clips_and_is_left_as_it_was(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", tracks=2, duration_s=25)
    before = sorted(root.rglob("*"))
    heard: list[tuple[int, int]] = []
    held_out = read_held_out(HearableFamily(), root, progress=lambda done, total: heard.append((done, total)))
    assert sorted(root.rglob("*")) == before
    assert [windows.shape[1] for windows in held_out.windows] == [DIMENSIONS] * 2
    assert [clip.recording for clip in held_out.clips] == ["track_000.wav"] * 2 + ["track_001.wav"] * 2
    first, last = held_out.clips[:2]
    assert first.latents.shape == last.latents.shape == (8, 16, 107)
    assert not torch.equal(first.latents, last.latents)
    assert heard == [(1, 2), (2, 2)]


def test_a_bare_folder_gives_embeddings_and_no_clips(tmp_path: Path) -> None:
    write_tone(tmp_path / "music" / "album" / "one.wav", 6)
    write_tone(tmp_path / "music" / ".trash" / "two.wav", 6)
    held_out = read_held_out(HearableFamily(), tmp_path / "music")
    assert len(held_out.windows) == 1
    assert held_out.clips == ()


def test_a_folder_without_recordings_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        find_recordings(tmp_path / "none")
    with pytest.raises(InputError, match="holds no recordings"):
        find_recordings(tmp_path)
    (tmp_path / "audio").mkdir()
    with pytest.raises(DatasetError, match="holds no recordings"):
        read_held_out(HearableFamily(), tmp_path)


def test_a_recording_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"broken\.wav"):
        read_held_out(HearableFamily(), tmp_path)
    with pytest.raises(AudioError, match=r"broken\.wav"):
        read_start(tmp_path / "broken.wav", 44100, 10.0)


def test_only_the_start_is_read(tmp_path: Path) -> None:
    write_tone(tmp_path / "long.wav", 25)
    audio = read_start(tmp_path / "long.wav", 44100, 12.0)
    assert audio.shape == (2, 12 * 44100)
    assert np.abs(audio).max() > 0
