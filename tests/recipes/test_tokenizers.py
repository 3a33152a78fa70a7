from pathlib import Path

import pytest
from recipes.nano.tokenizers import TEMPOS, write_lyric_tokenizer, write_prompt_tokenizer
from tokenizers import Tokenizer

from acestep.conditioning.lyric_tokenizer import LyricTokenizer


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("prompts")
    write_prompt_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_every_tempo_is_one_token(prompts: Tokenizer):
    assert all(prompts.encode(f"{tempo} bpm").tokens == [str(tempo), "bpm", "</s>"] for tempo in TEMPOS)


def test_two_spellings_of_a_key_are_one(prompts: Tokenizer):
    assert prompts.encode("Db minor").ids == prompts.encode("C# minor").ids
    assert prompts.encode("Eb major").tokens == ["eb", "major", "</s>"]


def test_words_it_was_not_made_for_fall_apart_into_letters(prompts: Tokenizer):
    assert prompts.encode("zydeco").tokens == ["z", "##y", "##d", "##e", "##c", "##o", "</s>"]


def test_lyrics_have_one_token_for_each_structure_tag(tmp_path: Path):
    size = write_lyric_tokenizer(tmp_path / "vocab.json")
    assert size <= 300
    lyrics = LyricTokenizer(tmp_path / "vocab.json")
    assert {"[verse]", "[chorus]", "[bridge]", "[intro]", "[outro]", "[inst]"} <= set(lyrics.structure_tags)
    assert len(lyrics.encode("[Verse]")) == 4  # start, language, tag, end of line
