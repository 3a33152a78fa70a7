import json
import os
import unicodedata
from pathlib import Path

import pytest

from acestep.datasets.folder import read_dataset_folder
from acestep.errors import DatasetError
from small_family import write_dataset, write_tone


def annotate(root: Path, stem: str, **values: object) -> None:
    path = root / "annotations" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_annotations_win_over_the_csv_and_the_csv_fills_what_they_leave_out(tmp_path: Path):
    root = write_dataset(tmp_path, tracks=2, duration_s=0.5)
    annotate(root, "track_001", prompt="from the annotation", bpm=90)
    prompts = [track.annotation.text_prompt() for track in read_dataset_folder(root).tracks]
    assert prompts == ["tone number 0, drone, calm", "from the annotation, drone, calm, 90 bpm"]


def test_all_bad_tracks_are_named_at_once(tmp_path: Path):
    root = write_dataset(tmp_path, tracks=1, duration_s=0.5)
    audio = root / "audio"
    write_tone(audio / "forgotten.wav", 0.5)
    (audio / "empty.wav").touch()
    (audio / "noise.mp3").write_bytes(b"this is no mp3" * 50)
    write_tone(audio / "nothing.wav", 0.0)
    for stem in ("empty", "noise", "nothing"):
        annotate(root, stem, prompt="x")
    with pytest.raises(DatasetError) as error:
        read_dataset_folder(root)
    message = str(error.value)
    assert "4 of 5 tracks" in message
    assert "forgotten.wav: it has no annotation; expected annotations/forgotten.json" in message
    assert "empty.wav: it is empty" in message
    assert "noise.mp3: it is no audio file that can be read" in message
    assert "nothing.wav: it has no audio in it" in message


def test_the_rest_goes_on_only_if_asked_to(tmp_path: Path):
    root = write_dataset(tmp_path, tracks=2, duration_s=0.5)
    write_tone(root / "audio" / "forgotten.wav", 0.5)
    folder = read_dataset_folder(root, skip_bad=True)
    assert len(folder.tracks) == 2
    assert [problem.track for problem in folder.problems] == ["forgotten.wav"]


def test_nothing_but_bad_tracks_is_an_error_even_if_they_may_be_skipped(tmp_path: Path):
    write_tone(tmp_path / "audio" / "forgotten.wav", 0.5)
    with pytest.raises(DatasetError, match=r"forgotten\.wav"):
        read_dataset_folder(tmp_path, skip_bad=True)


def test_a_missing_folder_a_folder_without_audio_and_an_empty_one_say_what_is_expected(tmp_path: Path):
    with pytest.raises(DatasetError, match="no folder"):
        read_dataset_folder(tmp_path / "none")
    with pytest.raises(DatasetError, match="audio/"):
        read_dataset_folder(tmp_path)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "._track.wav").touch()
    (tmp_path / "audio" / "notes.txt").touch()
    with pytest.raises(DatasetError, match="no recordings"):
        read_dataset_folder(tmp_path)


def test_names_are_matched_in_either_unicode_spelling(tmp_path: Path):
    name = "für élise"
    write_tone(tmp_path / "audio" / f"{unicodedata.normalize('NFD', name)}.wav", 0.5)
    annotate(tmp_path, unicodedata.normalize("NFC", name), prompt="piano")
    assert read_dataset_folder(tmp_path).tracks[0].annotation.prompt == "piano"


def test_recordings_in_folders_below_audio_have_annotations_below_annotations(tmp_path: Path):
    write_tone(tmp_path / "audio" / "album" / "one.wav", 0.5)
    annotate(tmp_path, "album/one", prompt="x")
    assert read_dataset_folder(tmp_path).tracks[0].name == "album/one.wav"


def test_small_folders_short_tracks_and_rows_without_files_are_warned_about(tmp_path: Path):
    root = write_dataset(tmp_path, tracks=2, duration_s=0.5)
    with (root / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("gone.wav,x,1,a,b\n")
    warnings = "\n".join(read_dataset_folder(root).warnings)
    assert "under 20" in warnings
    assert "shorter than 30 s" in warnings
    assert "gone.wav" in warnings


def test_linked_recordings_and_folders_are_read_once_and_a_link_to_nothing_is_named(tmp_path: Path):
    write_tone(tmp_path / "elsewhere" / "album" / "one.wav", 0.5)
    write_tone(tmp_path / "elsewhere" / "two.wav", 0.5)
    audio = tmp_path / "data" / "audio"
    audio.mkdir(parents=True)
    (audio / "album").symlink_to(tmp_path / "elsewhere" / "album")
    (audio / "two.wav").symlink_to(tmp_path / "elsewhere" / "two.wav")
    (tmp_path / "elsewhere" / "album" / "round").symlink_to(audio)
    for stem in ("album/one", "two"):
        annotate(tmp_path / "data", stem, prompt="x")
    assert [track.name for track in read_dataset_folder(tmp_path / "data").tracks] == ["album/one.wav", "two.wav"]
    (audio / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    annotate(tmp_path / "data", "gone", prompt="x")
    with pytest.raises(DatasetError, match=r"gone\.wav: it is not there"):
        read_dataset_folder(tmp_path / "data")


def test_names_as_long_as_they_can_be_work_and_those_that_are_no_text_are_refused(tmp_path: Path):
    long = "夜" * 83 + ".wav"
    for name in (long, "👩‍🎤 zwölf\u00a0.wav"):
        write_tone(tmp_path / "audio" / name, 0.5)
        with (tmp_path / "metadata.csv").open("a", encoding="utf-8") as file:
            file.write("" if file.tell() else "filename,prompt\n")
            file.write(f"{name},night\n")
    assert len(read_dataset_folder(tmp_path).tracks) == 2
    os.link(tmp_path / "audio" / long, os.fsencode(tmp_path / "audio") + b"/\xff.wav")
    with pytest.raises(DatasetError, match="its name is no UTF-8 text") as error:
        read_dataset_folder(tmp_path)
    str(error.value).encode("utf-8")
