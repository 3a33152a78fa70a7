from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from acestep.conditioning.lyric_tokenizer import LANGUAGES, LyricTokenizer
from acestep.errors import CheckpointError, InputError
from reference_data import load_json, reference_path


@pytest.fixture(scope="module")
def released() -> LyricTokenizer:
    return LyricTokenizer(reference_path("lyrics/vocab.json"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_golden_line_has_the_released_ids(released: LyricTokenizer, language: str):
    goldens = [golden for golden in load_json("lyrics/encode_goldens.json") if golden["lang"] == language]
    assert goldens
    for golden in goldens:
        assert released.encode_line(golden["line"], language) == golden["ids"], golden["line"]


def test_whole_lyrics_have_the_ids_that_the_released_model_sings(released: LyricTokenizer):
    for golden in load_json("lyrics/whole_lyrics_goldens.json"):
        assert released.encode(golden["lyrics"]) == golden["inference_ids"], golden["lyrics"]


def test_whole_lyrics_have_the_ids_that_the_released_model_was_trained_on(released: LyricTokenizer):
    for golden in load_json("lyrics/whole_lyrics_goldens.json"):
        if golden["training_error"] is None:
            assert released.encode_for_training(golden["lyrics"]) == golden["training_map_ids"], golden["lyrics"]


def test_training_lyrics_in_a_language_without_a_token_are_refused_by_name(released: LyricTokenizer):
    refused = [golden for golden in load_json("lyrics/whole_lyrics_goldens.json") if golden["training_error"]]
    assert refused
    for golden in refused:
        with pytest.raises(InputError, match="'ca'"):
            released.encode_for_training(golden["lyrics"])


def test_the_released_vocabulary_serves_all_languages_and_twelve_structure_tags(released: LyricTokenizer):
    assert released.languages == LANGUAGES
    assert released.vocabulary_size == 6693
    assert len(released.structure_tags) == 12
    assert {"[verse]", "[pre-chorus]", "[break]"} <= set(released.structure_tags)


def test_a_region_is_ignored(released: LyricTokenizer):
    assert released.encode_line("爱", "zh-cn") == released.encode_line("爱", "zh")


def test_ids_come_from_the_names_of_tokens_and_not_from_fixed_numbers(english_vocabulary: Path):
    tokenizer = LyricTokenizer(english_vocabulary)
    name_of = {index: name for name, index in Tokenizer.from_file(str(english_vocabulary)).get_vocab().items()}
    names = [name_of[index] for index in tokenizer.encode("[Verse]\n\nGo on")]
    assert names == ["[START]", "[en]", "[verse]", "[SPACE]", "[SPACE]", "[en]", *"go", "[SPACE]", *"on", "[SPACE]"]
    assert [name_of[index] for index in tokenizer.encode_for_training(" \n")] == ["[STOP]"]


def test_a_vocabulary_of_one_language_reads_every_line_in_it(english_vocabulary: Path):
    tokenizer = LyricTokenizer(english_vocabulary)
    assert tokenizer.languages == ("en",)
    assert tokenizer.encode("ab 爱") == [4, *tokenizer.encode_line("ab 爱", "en"), 5]


def test_a_language_that_the_vocabulary_lacks_is_refused_with_those_it_has(english_vocabulary: Path):
    with pytest.raises(InputError, match=r"'fr'.*choose one of en"):
        LyricTokenizer(english_vocabulary).encode_line("oui", "fr")


@pytest.mark.parametrize("name", ["[START]", "[SPACE]", "[UNK]", "[en]"])
def test_a_vocabulary_without_a_needed_token_is_refused(tmp_path: Path, english_vocabulary: Path, name: str):
    contents = json.loads(english_vocabulary.read_text(encoding="utf-8"))
    del contents["model"]["vocab"][name]
    contents["added_tokens"] = [token for token in contents["added_tokens"] if token["content"] != name]
    if name == "[UNK]":
        contents["model"]["unk_token"] = None
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(contents), encoding="utf-8")
    with pytest.raises(CheckpointError):
        LyricTokenizer(broken)


def test_a_file_that_is_no_vocabulary_is_refused_by_its_path(tmp_path: Path):
    path = tmp_path / "vocab.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        LyricTokenizer(path)


def test_lyrics_over_the_limit_are_refused_with_both_numbers(english_vocabulary: Path):
    tokenizer = LyricTokenizer(english_vocabulary, max_tokens=12)
    assert len(tokenizer.encode("a" * 9)) == 12
    for encode in (tokenizer.encode, tokenizer.encode_for_training):
        with pytest.raises(InputError, match=r"13 tokens.*at most 12"):
            encode("a" * 10)


def test_lyrics_that_cannot_fit_are_refused_before_any_work(all_languages_vocabulary: Path):
    tokenizer = LyricTokenizer(all_languages_vocabulary)
    began = time.perf_counter()
    with pytest.raises(InputError, match="10000000 characters"):
        tokenizer.encode("爱1, " * 2_500_000)
    assert time.perf_counter() - began < 0.5


@settings(deadline=None, max_examples=60)
@given(lyrics=st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_at_all_is_encoded(all_languages_vocabulary: Path, lyrics: str):
    tokenizer = LyricTokenizer(all_languages_vocabulary)
    ids = tokenizer.encode(lyrics)
    assert ids[0] == 4
    assert ids.count(5) > lyrics.count("\n")
    assert max(ids) < tokenizer.vocabulary_size


@settings(deadline=None, max_examples=60)
@given(line=st.text(max_size=40), language=st.sampled_from(LANGUAGES))
def test_any_line_is_encoded_in_any_language(all_languages_vocabulary: Path, line: str, language: str):
    ids = LyricTokenizer(all_languages_vocabulary).encode_line(line, language)
    prefix = "[zh-cn]" if language == "zh" else f"[{language}]"
    assert Tokenizer.from_file(str(all_languages_vocabulary)).id_to_token(ids[0]) == prefix


@pytest.mark.parametrize("unit", ["1", '"', ". ", "爱", "爱,", "(", "$1", "1.", "あ漢", "a"])
def test_the_time_for_a_line_grows_with_its_length_and_not_its_square(all_languages_vocabulary: Path, unit: str):
    tokenizer = LyricTokenizer(all_languages_vocabulary, max_tokens=100_000)
    tokenizer.encode_for_training(unit * 10)
    began = time.process_time()
    tokenizer.encode(unit * (6000 // len(unit)))
    # Patterns that are entered at each character of a run took a minute here.
    assert time.process_time() - began < 5
