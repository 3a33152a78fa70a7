from __future__ import annotations

from pathlib import Path

import pytest

from acestep.audio.files import read_audio
from acestep.cli import demo_material
from acestep.cli.demo_material import STYLE, different, excerpt, style_name, synthesise
from acestep.datasets.folder import read_dataset_folder
from acestep.datasets.synthesis import STYLES
from acestep.errors import InputError
from acestep.evaluation.prompts import Prompt
from small_family import write_dataset, write_tone


def ignore(done: int, total: int) -> None:
    pass


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_synthesised_style_is_one_that_nano_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_material, "TRACK_S", 2.0)
    material = synthesise(tmp_path / "data", progress=ignore, tracks=2)
    assert STYLE not in STYLES
    tracks = read_dataset_folder(tmp_path / "data").tracks
    assert len(tracks) == material.tracks == 2
    assert tracks[0].annotation.prompt != tracks[1].annotation.prompt
    assert all(track.annotation.bpm for track in tracks)


def test_bare_recordings_get_the_folders_name_as_their_prompt_and_the_user_is_told(tmp_path: Path) -> None:
    source = tmp_path / "Night_Train - Demos"
    for index in range(4):
        write_tone(source / "deep" / f"{index}.wav", 6, frequency=100 + index)
    before = snapshot(source)
    material = excerpt(source, tmp_path / "data", progress=ignore)
    tracks = read_dataset_folder(tmp_path / "data").tracks
    assert {track.annotation.text_prompt() for track in tracks} == {"night train demos"}
    assert any('"night train demos"' in note for note in material.notes)
    assert len(material.prompts) > 1
    assert all("night train demos" in prompt.prompt for prompt in material.prompts)
    assert snapshot(source) == before


def test_annotations_are_kept_and_lyrics_that_an_excerpt_cannot_hold_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_material, "EXCERPT_S", 6.0)
    source = write_dataset(tmp_path / "mine", tracks=4, duration_s=5.5)
    write_tone(source / "audio" / "long.wav", 9)
    (source / "annotations").mkdir()
    (source / "annotations" / "long.json").write_text('{"prompt": "a long tone", "lyrics": "la", "bpm": 90}')
    material = excerpt(source, tmp_path / "data", progress=ignore)
    annotations = {track.annotation.prompt: track.annotation for track in read_dataset_folder(tmp_path / "data").tracks}
    assert annotations["a long tone"].lyrics == ""
    assert annotations["a long tone"].bpm == 90
    assert "tone number 2" in annotations
    assert any(note.startswith("long.wav") for note in material.notes)
    assert material.prompts == ()


def test_an_excerpt_is_the_middle_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_material, "EXCERPT_S", 5.0)
    for index in range(4):
        write_tone(tmp_path / "in" / f"{index}.wav", 15)
    excerpt(tmp_path / "in", tmp_path / "data", progress=ignore)
    whole = read_audio(tmp_path / "in" / "0.wav")
    cut = read_audio(tmp_path / "data" / "audio" / "track_001.flac")
    assert cut.shape[1] == 5 * 44100
    middle = whole[:, 5 * 44100 : 10 * 44100]
    assert abs(cut - middle).max() < 1e-3


def test_unusable_recordings_are_named_and_too_few_are_refused(tmp_path: Path) -> None:
    for index in range(4):
        write_tone(tmp_path / "in" / f"{index}.wav", 6)
    (tmp_path / "in" / "broken.wav").write_bytes(b"no audio")
    write_tone(tmp_path / "in" / "short.wav", 1)
    notes = excerpt(tmp_path / "in", tmp_path / "data", progress=ignore).notes
    assert any("broken.wav" in note for note in notes)
    assert any("short.wav: it lasts 1.0 s" in note for note in notes)
    (tmp_path / "in" / "0.wav").unlink()
    with pytest.raises(InputError, match="has 3 usable recordings; expected at least 4"):
        excerpt(tmp_path / "in", tmp_path / "again", progress=ignore)
    with pytest.raises(InputError, match="holds no recordings"):
        excerpt(tmp_path / "again" / "annotations", tmp_path / "more", progress=ignore)


def test_a_folders_name_becomes_words() -> None:
    assert style_name(Path("/music/My_Band-Demos (2024)")) == "my band demos 2024"
    assert style_name(Path("/")) == "my recordings"


def test_equal_prompts_are_asked_for_once() -> None:
    prompts = [Prompt(prompt=text) for text in "abacd"]
    assert [prompt.prompt for prompt in different(prompts, 3)] == ["a", "b", "c"]
