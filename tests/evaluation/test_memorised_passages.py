from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from acestep.audio.files import read_audio, write_audio
from acestep.errors import AceStepError
from acestep.evaluation.chance_level import ChanceLevel
from acestep.evaluation.evaluation import Evaluation, evaluate_lora
from acestep.evaluation.findings import Finding
from acestep.evaluation.memorisation import FINGERPRINT
from acestep.evaluation.memorised_passages import MemorisationListener, read_stretch
from acestep.evaluation.page import write_page
from acestep.evaluation.recordings import DatasetParts
from acestep.evaluation.repetition import Memorisation, Nearest, Passage, SongMemory
from evaluation.fake_pipeline import BrightnessPipeline
from evaluation.songs import RATE, coloured_noise
from evaluation.test_evaluation import PROMPTS
from small_family import write_dataset


def dataset(root: Path) -> DatasetParts:
    write_dataset(root, tracks=2)
    write_audio(root / "audio" / "track_000.wav", coloured_noise(-6.0, seed=7, seconds=12).astype(np.float32), RATE)
    return DatasetParts(root, SimpleNamespace(tracks=()), None, ())


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> Evaluation:
    """An evaluation in which the search finds a passage of that nearness."""
    level = ChanceLevel.fit(FINGERPRINT, [], tail=0.01, source="nothing")

    def found(songs: object, *_: object, **__: object) -> Memorisation:
        names = [song.name for song in songs]
        passage = Passage("track_000.wav", 1.0, 4.0, 6.0, 9.0)
        memories = [
            SongMemory(names[0], (Nearest(level, value, passage),)),
            *(SongMemory(name, ()) for name in names[1:]),
        ]
        return Memorisation(tuple(memories), (level,), 2, (), ())

    monkeypatch.setattr("acestep.evaluation.memorised_passages.find_memorised", found)
    pipeline = BrightnessPipeline(3.0)
    pipeline.family.latent_rate, pipeline.family.sample_rate = 10.77, RATE
    (tmp_path / "out").mkdir()
    listener = MemorisationListener(tmp_path / "out", dataset(tmp_path / "data"))
    return evaluate_lora(
        pipeline, "my_lora", PROMPTS[:2], folder=tmp_path / "out", seeds=(1,), duration_s=5.0, listeners=[listener]
    )


def test_a_repeated_passage_is_an_alarm_with_both_passages_to_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = run(tmp_path, monkeypatch, 1000.0)
    (finding,) = evaluation.alarms
    (pair,) = finding.pairs
    assert pair.first.audio == "songs/prompt01-seed1-x1.flac"
    assert (pair.first.start_s, pair.first.end_s) == (1.0, 4.0)
    heard = read_audio(tmp_path / "out" / pair.second.audio)
    track = read_audio(tmp_path / "data" / "audio" / "track_000.wav")[:, 6 * RATE : 9 * RATE]
    assert heard.shape == track.shape
    assert np.corrcoef(heard[0], track[0])[0, 1] > 0.999
    page = write_page(tmp_path / "out", evaluation, title="t", advice=[]).read_text(encoding="utf-8")
    assert 'src="songs/prompt01-seed1-x1.flac#t=1.000,4.000"' in page
    assert "Alarm." in page
    assert len(finding.details["songs"]) == 1


def test_what_the_style_explains_is_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = run(tmp_path, monkeypatch, 5.0)
    assert evaluation.alarms == ()
    (finding,) = evaluation.findings
    assert finding.pairs == []


def test_without_a_dataset_it_is_left_out_and_named(tmp_path: Path) -> None:
    evaluation = evaluate_lora(
        BrightnessPipeline(3.0), "my_lora", PROMPTS[:2], folder=tmp_path, seeds=(1,), duration_s=5.0,
        listeners=[MemorisationListener(tmp_path, None)],
    )  # fmt: skip
    assert ("memorisation", "it needs the dataset that the LoRA was trained on") in evaluation.left_out
    assert not [finding for finding in evaluation.findings if isinstance(finding, Finding)]


def test_a_search_that_fails_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise AceStepError("the cache has gone")

    monkeypatch.setattr("acestep.evaluation.memorised_passages.find_memorised", gone)
    pipeline = BrightnessPipeline(3.0)
    pipeline.family.latent_rate = 10.77
    listener = MemorisationListener(tmp_path, dataset(tmp_path / "data"))
    evaluation = evaluate_lora(
        pipeline, "my_lora", PROMPTS[:2], folder=tmp_path, seeds=(1,), duration_s=5.0, listeners=[listener]
    )
    assert ("memorisation", "the cache has gone") in evaluation.left_out


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 2.0), (9.5, 10.5), (11.0, 15.0)])
def test_a_stretch_of_a_recording_is_read_exactly(tmp_path: Path, start_s: float, end_s: float) -> None:
    song = coloured_noise(-6.0, seed=7, seconds=12).astype(np.float32)
    write_audio(tmp_path / "song.wav", song, RATE)
    whole = read_audio(tmp_path / "song.wav")
    expected = whole[:, int(start_s * RATE) : int(end_s * RATE)]
    found = read_stretch(tmp_path / "song.wav", RATE, start_s, end_s)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=0, atol=1e-6)
