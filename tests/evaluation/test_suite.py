"""The fixed prompt suite, and files that are none."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from acestep.audio.key import MusicalKey
from acestep.conditioning.language_detection import detect_language
from acestep.datasets.musical_terms import named_key, named_tempo
from acestep.errors import InputError
from acestep.evaluation.prompts import Prompt
from acestep.evaluation.suite import FORMAT, SUITE_FILE, read_suite

MADE = {
    "format": FORMAT,
    "version": "7",
    "prompts": [{"id": "a", "prompt": "house"}, {"id": "b", "prompt": "folk", "lyrics": "[verse]\nla"}],
}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**MADE, **changes}), encoding="utf-8")
    return path


def test_the_suite_spreads_over_what_music_is() -> None:
    suite = read_suite()
    for prompts in (suite.prompts, suite.first(8)):
        tempos = [tempo for prompt in prompts if (tempo := named_tempo(prompt.prompt)) is not None]
        keys = [key for prompt in prompts if (key := named_key(prompt.prompt)) is not None]
        assert max(high for _, high in tempos) / min(low for low, _ in tempos) > 1.6
        assert {key.mode for key in keys} == {"major", "minor"}
        sung = [prompt for prompt in prompts if prompt.lyrics]
        assert 0.25 <= len(sung) / len(prompts) <= 0.75
        assert all(prompt.lyrics.startswith("[verse]") and "[chorus]" in prompt.lyrics for prompt in sung)
        assert all(prompt.language for prompt in sung)
    assert len(suite.prompts) == 24
    assert len({prompt.language for prompt in suite.prompts if prompt.language}) >= 7
    assert len({prompt.prompt.split(",")[0] for prompt in suite.prompts}) == 24
    assert len({named_key(prompt.prompt) for prompt in suite.prompts} - {None}) >= 12


def test_lyrics_are_in_the_language_they_say() -> None:
    for prompt in read_suite().prompts:
        if prompt.language:
            words = "\n".join(line for line in prompt.lyrics.splitlines() if not line.startswith("["))
            assert detect_language(words) == prompt.language, prompt.id


def test_edge_prompts_are_written_out_and_say_what_is_right() -> None:
    edge = {prompt.id: prompt for prompt in read_suite().edge}
    assert edge["empty"].prompt == edge["empty"].lyrics == ""
    assert len(edge["too-long"].prompt) > 10 * len(edge["long"].prompt) > 5000
    assert edge["too-long"].expect == "refused"
    assert {prompt.expect for name, prompt in edge.items() if name != "too-long"} == {"song"}
    assert all(prompt.why for prompt in edge.values())


def test_prompts_serve_wherever_prompts_do() -> None:
    suite = read_suite()
    assert all(isinstance(prompt, Prompt) for prompt in (*suite.prompts, *suite.edge))
    assert suite.first(3) == suite.prompts[:3]
    for count in (0, 25, -1):
        with pytest.raises(InputError, match="1 to 24"):
            suite.first(count)


def test_a_suite_is_known_by_version_and_hash(tmp_path: Path) -> None:
    suite = read_suite()
    assert suite.sha256 == hashlib.sha256(SUITE_FILE.read_bytes()).hexdigest()
    assert suite.as_dict() == {"version": "1.0", "sha256": suite.sha256, "prompts": 24, "edge": 11}
    own = read_suite(written(tmp_path / "own.json"))
    assert own.version == "7"
    assert own.sha256 != suite.sha256
    assert own.edge == ()


def test_the_words_of_this_version_have_not_changed() -> None:
    suite = read_suite()
    assert suite.version == "1.0", "a new version needs its own hash here"
    assert suite.sha256 == "d666b4d943620079a077506d0ab7022463e1a9b70752096d4c8f3fce55e0dd83", (
        "figures of this version exist: give changed prompts a new version"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "something-else"}, "format"),
        ({"prompts": [{"id": "a", "prompt": "house"}]}, "prompts"),
        ({"prompts": [{"id": "a", "prompt": "house"}, {"id": "a", "prompt": "folk"}]}, "the ids a occur twice"),
        ({"prompts": [{"id": "a", "prompt": "house"}, {"id": "b", "prompt": ""}]}, "prompts.1.prompt"),
        ({"edge": [{"id": "x", "repeat": 10**9}]}, "edge.0.repeat"),
        ({"edge": [{"id": "x", "expect": "magic"}]}, "edge.0.expect"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_suite(written(tmp_path / "suite.json", **changes))


@pytest.mark.parametrize("content", [b"", b"[]", b"nothing", b"\xff\xfe\x00", b"[" * 100_000, b"null"])
def test_what_is_no_suite_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "süite.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a prompt suite"):
        read_suite(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_suite(tmp_path / "missing.json")


def test_keys_of_the_suite_are_read_as_they_are_meant() -> None:
    keys = {prompt.id: named_key(prompt.prompt) for prompt in read_suite().prompts}
    assert keys["folk-en"] == MusicalKey(7, "major")
    assert keys["reggaeton-es"] == MusicalKey(9, "minor")
    assert keys["ambient"] is None
