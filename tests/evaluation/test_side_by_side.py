from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from acestep.audio.files import read_audio
from acestep.audio.loudness import loudness_lufs
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.side_by_side import TARGET_LUFS, Comparison, equal_loudness_gain, generate_comparisons
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.songs import RATE

PROMPTS = [Prompt(prompt="one"), Prompt(prompt="three")]


def compare(folder: Path, pipeline: BrightnessPipeline) -> list[Comparison]:
    name = pipeline.load_lora("lora")
    return generate_comparisons(
        pipeline, name, PROMPTS, seeds=(1, 2), strengths=(0.0, 1.0), duration_s=5.0, folder=folder
    )


def test_every_prompt_and_seed_is_made_at_every_strength_and_nothing_else_differs(tmp_path: Path) -> None:
    pipeline = BrightnessPipeline(0.0)
    comparisons = compare(tmp_path, pipeline)
    assert pipeline.calls == [(p.prompt, s, w) for p in PROMPTS for s in (1, 2) for w in (0.0, 1.0)]
    for comparison in comparisons:
        base, adapted = comparison.takes
        np.testing.assert_array_equal(base.windows, adapted.windows)
        assert (tmp_path / base.picture).read_bytes() == (tmp_path / adapted.picture).read_bytes()


def test_songs_of_different_loudness_are_heard_at_one(tmp_path: Path) -> None:
    comparisons = compare(tmp_path, BrightnessPipeline(6.0))
    takes = [take for comparison in comparisons for take in comparison.takes]
    made = [take.loudness_lufs for take in takes]
    heard = [loudness_lufs(read_audio(tmp_path / take.audio), RATE) for take in takes]
    assert np.ptp(made) > 1
    assert heard == pytest.approx([TARGET_LUFS] * len(heard), abs=0.1)


def test_a_song_with_high_peaks_is_left_quieter_rather_than_clipped() -> None:
    song = np.zeros((2, RATE), np.float32)
    song[:, ::4410] = 0.5
    gain = equal_loudness_gain(song, -45.0)
    assert np.abs(song * gain).max() == pytest.approx(0.89)


def test_silence_is_marked_and_not_amplified(tmp_path: Path) -> None:
    comparisons = compare(tmp_path, BrightnessPipeline(0.0, level=0.0))
    assert all(take.is_silent and take.gain_db == 0 for comparison in comparisons for take in comparison.takes)


def test_progress_counts_songs(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    pipeline = BrightnessPipeline(0.0)
    generate_comparisons(
        pipeline,
        pipeline.load_lora("lora"),
        PROMPTS[:1],
        seeds=(1,),
        strengths=(0.0, 1.0),
        duration_s=5.0,
        folder=tmp_path,
        progress=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 2), (2, 2)]
