from __future__ import annotations

import json
from pathlib import Path

import pytest

from acestep.errors import InputError
from acestep.evaluation.prompts import Prompt, read_prompts

LOFI, SONG = Prompt(prompt="lofi, 82 bpm"), Prompt(prompt="folk, 96 bpm", lyrics="[verse]\nla la")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "# styles\nlofi, 82 bpm\n\n  folk # 1  \n", [LOFI, Prompt(prompt="folk # 1")]),
        ("p.json", json.dumps(["lofi, 82 bpm", SONG.model_dump()]), [LOFI, SONG]),
        ("p.jsonl", f'{LOFI.model_dump_json()}\n\n"folk"\n', [LOFI, Prompt(prompt="folk")]),
        ("p.yaml", "- lofi, 82 bpm\n- prompt: folk, 96 bpm\n  lyrics: |-\n    [verse]\n    la la\n", [LOFI, SONG]),
        ("p.YML", "- prompt: lofi, 82 bpm\n", [LOFI]),
        ("bom.txt", "\ufefflofi, 82 bpm", [LOFI]),
    ],
)
def test_prompts_are_read_from_the_forms_that_people_keep_them_in(
    tmp_path: Path, name: str, text: str, expected: list[Prompt]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "lofi", "not a prompts file"),
        ("p.txt", "# nothing\n", "holds 0 prompts"),
        ("p.json", "[1, {}", "line 1: not JSON"),
        ("p.json", '{"prompt": "a"}', "expected a list"),
        ("p.json", '["a", 3, {"prompt": ""}, {"prompt": "b", "seed": 1}]', r"3 of 4 items .*item 2 is 3"),
        ("p.jsonl", '"a"\nb\n', "line 2: not JSON"),
        ("p.yaml", "- a: [", "not YAML"),
        ("p.yaml", "", "holds null"),
        ("p.txt", "a\n" * 501, "holds 501"),
    ],
)
def test_another_form_is_refused_with_the_forms_there_are(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / name)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no prompts file .*none\.txt"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "sound.txt").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "sound.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "folder.txt")
