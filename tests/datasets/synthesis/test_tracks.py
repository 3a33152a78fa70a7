import csv
import json

import numpy as np
import pytest
import soundfile

from acestep.datasets.synthesis import NOVEL_STYLES, STYLES, make_track, write_dataset
from acestep.errors import InputError


@pytest.mark.parametrize("style", [*STYLES, *NOVEL_STYLES])
def test_every_style_makes_sound_that_is_neither_silent_nor_clipped(style: str):
    track = make_track(style, seed=1, duration_s=6.0)
    assert track.audio.shape == (2, 6 * 44100)
    assert track.audio.dtype == np.float32
    assert np.abs(track.audio).max() < 0.99
    assert np.sqrt(np.mean(track.audio**2)) > 0.03


def test_the_same_style_and_seed_give_the_same_samples_and_words():
    first, second = (make_track("funk", seed=7, duration_s=5.0) for _ in range(2))
    np.testing.assert_array_equal(first.audio, second.audio)
    assert (first.prompt, first.lyrics) == (second.prompt, second.lyrics)


def test_another_seed_gives_another_track():
    first, second = (make_track("funk", seed=seed, duration_s=5.0) for seed in (7, 8))
    assert not np.array_equal(first.audio, second.audio)


def test_a_caption_tells_tempo_and_key_as_they_are():
    tracks = [make_track("house", seed=seed, duration_s=5.0) for seed in range(20)]
    told = [track for track in tracks if f"{track.bpm} bpm" in track.tags and track.key in track.tags]
    assert len(told) >= 15
    assert all(tag.split()[0] == str(track.bpm) for track in tracks for tag in track.tags if tag.endswith(" bpm"))


def test_lyrics_name_the_sections_in_the_order_they_are_heard():
    track = make_track("rock", seed=3, duration_s=60.0, form=("intro", "verse", "chorus", "outro"))
    written = [line.strip("[]") for line in track.lyrics.splitlines() if line.startswith("[")]
    assert written == ["intro", "verse", "chorus", "outro"] == [section.tag for section in track.sections]
    assert track.sections[0].start_s == 0.0
    assert track.sections[-1].end_s == 60.0


def test_a_chorus_is_louder_than_the_outro_after_it():
    track = make_track("synthwave", seed=3, duration_s=30.0, form=("chorus", "outro"))
    chorus, outro = (
        track.audio[:, round(section.start_s * 44100) : round(section.end_s * 44100)] for section in track.sections
    )
    assert np.std(chorus) > 1.3 * np.std(outro)


def test_an_unknown_style_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="lofi"):
        make_track("polka", seed=0, duration_s=5.0)


def test_a_written_dataset_has_audio_annotations_and_a_table(tmp_path):
    files = write_dataset(tmp_path, "gamelan waltz", 2, seed=5, duration_s=5.0)
    assert [file.name for file in files] == ["track_001.wav", "track_002.wav"]
    samples, rate = soundfile.read(files[0])
    assert (samples.shape, rate) == ((5 * 44100, 2), 44100)
    annotation = json.loads((tmp_path / "annotations" / "track_001.json").read_text())
    assert annotation["bpm"] == make_track("gamelan waltz", seed=5, duration_s=5.0).bpm
    with (tmp_path / "metadata.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["filename"] for row in rows] == ["track_001.wav", "track_002.wav"]
    assert list(rows[0]) == ["filename", "prompt", "duration", "genre", "mood"]
