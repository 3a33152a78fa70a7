import json
from pathlib import Path

import pytest

from acestep.datasets.annotations import Annotation, parse_annotation, read_annotation, read_metadata_csv
from acestep.errors import DatasetError


def test_a_prompt_says_tags_tempo_and_key_once_each():
    annotation = Annotation("lofi, mellow", tags=("mellow", "electric piano"), bpm=82.0, key="A minor")
    assert annotation.text_prompt() == "lofi, mellow, electric piano, 82 bpm, A minor"
    said = Annotation("A slow Lofi piece at 82 BPM in a minor.", tags=("lofi",), bpm=82, key="A minor")
    assert said.text_prompt() == "A slow Lofi piece at 82 BPM in a minor"


def test_a_tag_inside_a_longer_word_is_still_said():
    assert Annotation("popular song", tags=("pop",)).text_prompt() == "popular song, pop"


def test_tags_alone_make_a_prompt():
    assert Annotation(tags=("raga", "sitar")).text_prompt() == "raga, sitar"


def test_tags_come_as_a_list_or_between_commas():
    for tags in (["a", "b", "a"], "a, b,"):
        assert parse_annotation({"tags": tags}).tags == ("a", "b")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x", "tags": {"a": 1}}, "tags"),
        ({"prompt": "x", "bpm": "fast"}, "bpm"),
        ({"prompt": "x", "bpm": True}, "bpm"),
        ({"prompt": "x", "bpm": 9000}, "bpm"),
        ({"lyrics": "la"}, "neither a prompt nor tags"),
    ],
)
def test_a_value_that_cannot_be_is_named(values: dict[str, object], named: str):
    with pytest.raises(DatasetError, match=named):
        parse_annotation(values)


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', ""])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DatasetError, match=r"a\.json"):
        read_annotation(tmp_path / "a.json")


def test_a_json_with_a_byte_order_mark_reads(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "é"}), encoding="utf-8-sig")
    assert read_annotation(tmp_path / "a.json") == {"prompt": "é"}


def test_a_csv_from_a_spreadsheet_reads_with_genre_and_mood_as_tags(tmp_path: Path):
    text = 'Filename,Prompt,duration,genre,mood\r\na.wav,"soft, slow",31.5,ambient,calm\r\nb.wav,,12,rock,\r\n'
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8-sig", newline="")
    rows = read_metadata_csv(tmp_path / "metadata.csv")
    assert parse_annotation(rows["a.wav"]) == Annotation("soft, slow", tags=("ambient", "calm"))
    assert parse_annotation(rows["b.wav"]).text_prompt() == "rock"


@pytest.mark.parametrize("text", ["", "name,prompt\na,b\n", "filename;prompt\na.wav;b\n"])
def test_a_csv_without_filenames_says_what_it_has(tmp_path: Path, text: str):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DatasetError, match="filename and prompt"):
        read_metadata_csv(tmp_path / "metadata.csv")
