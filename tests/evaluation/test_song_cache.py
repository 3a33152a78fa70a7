from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from acestep.evaluation.evaluation import Evaluation, evaluate_lora
from acestep.evaluation.report_card import report_card
from acestep.evaluation.song_cache import SongCache, base_identity, base_song
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.test_evaluation import PROMPTS

ASKED = {"prompt": "a", "lyrics": "", "duration": 5.0, "seed": 1}


def evaluate(pipeline: BrightnessPipeline, folder: Path, cache: SongCache | None) -> Evaluation:
    folder.mkdir()
    return evaluate_lora(pipeline, "lora", PROMPTS[:2], folder=folder, seeds=(1,), duration_s=5.0, cache=cache)


def test_songs_of_the_base_are_made_once_for_several_loras_and_measure_the_same(tmp_path: Path) -> None:
    cache = SongCache(tmp_path / "cache")
    evaluate(BrightnessPipeline(2.0), tmp_path / "first", cache)
    pipeline = BrightnessPipeline(4.0)
    second = evaluate(pipeline, tmp_path / "second", cache)
    assert [weight for _, _, weight in pipeline.calls] == [1.0, 1.0]
    alone = evaluate(BrightnessPipeline(4.0), tmp_path / "alone", None)
    assert report_card(second) == report_card(alone)
    for song in ("songs/prompt01-seed1-x0.flac", "songs/prompt01-seed1-x0.png"):
        assert (tmp_path / "second" / song).read_bytes() == (tmp_path / "alone" / song).read_bytes()


@pytest.mark.parametrize("change", [{"seed": 2}, {"prompt": "b"}, {"duration": 6.0}, {"steps": 3}])
def test_another_song_is_not_taken_for_it(tmp_path: Path, change: dict[str, object]) -> None:
    cache, pipeline = SongCache(tmp_path), BrightnessPipeline(0.0)
    identity = base_identity(pipeline)
    base_song(pipeline, identity, cache, **ASKED)
    base_song(pipeline, identity, cache, **{**ASKED, **change})
    base_song(pipeline, {**identity, "fingerprint": "other"}, cache, **ASKED)
    assert cache.hits == 0
    base_song(pipeline, identity, cache, **ASKED)
    assert cache.hits == 1


def test_a_damaged_song_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, pipeline = SongCache(tmp_path), BrightnessPipeline(0.0)
    identity = base_identity(pipeline)
    whole = base_song(pipeline, identity, cache, **ASKED)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    again = base_song(pipeline, identity, cache, **ASKED)
    torch.testing.assert_close(again.audio, whole.audio, rtol=0, atol=0)
    assert "made again" in caplog.text
    assert cache.hits == 0
    base_song(pipeline, identity, cache, **ASKED)
    assert cache.hits == 1


def test_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acestep.evaluation.song_cache.save_file", full)
    song = base_song(BrightnessPipeline(0.0), {"a": 1}, SongCache(tmp_path), **ASKED)
    assert song.audio.shape[0] == 2
    assert "No space left" in caplog.text
    assert not list(tmp_path.rglob("*.partial"))


def test_beyond_its_limit_the_songs_not_asked_for_the_longest_go(tmp_path: Path) -> None:
    pipeline = BrightnessPipeline(0.0)
    keep_two = SongCache(tmp_path, max_bytes=4_000_000)
    for seed in (1, 2, 3):
        base_song(pipeline, {}, keep_two, **{**ASKED, "seed": seed})
        for path in tmp_path.rglob("*.safetensors"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    base_song(pipeline, {}, keep_two, **{**ASKED, "seed": 1})
    assert keep_two.hits == 0
    base_song(pipeline, {}, keep_two, **{**ASKED, "seed": 3})
    assert keep_two.hits == 1


def test_a_broken_song_is_not_kept(tmp_path: Path) -> None:
    base_song(BrightnessPipeline(0.0, broken_at=0.0), {}, SongCache(tmp_path), **ASKED)
    assert not list(tmp_path.rglob("*.safetensors"))
