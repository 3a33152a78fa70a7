"""The lines that the README promises, run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile

from acestep.families.hub import V1_HUB_ID
from acestep.lora.adapter import read_adapter, write_adapter
from acestep.pipeline import read_recipe
from families.test_hub import lay_out_hub_cache
from reference_data import reference_path
from small_checkpoint import write_letter_vocabulary

README = Path(__file__).parents[1] / "README.md"


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_readmes_lines_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = lay_out_hub_cache(tmp_path / "hub", V1_HUB_ID, reference_path("tiny/checkpoint"))
    write_letter_vocabulary(snapshot / "lyric_tokenizer" / "vocab.json")
    monkeypatch.chdir(tmp_path)
    write_adapter("my_custom_lora", read_adapter(reference_path("tiny/lora/plain_with_metadata")))

    [block] = python_blocks(README.read_text(encoding="utf-8"))
    exec(compile(block, "README.md", "exec"), {})

    info = soundfile.info("eval.mp3")
    assert info.samplerate == 44100
    assert info.channels == 2
    assert info.duration == pytest.approx(30, abs=0.2)
    recipe = read_recipe("eval.mp3")
    assert recipe["model"] == V1_HUB_ID
    assert recipe["params"]["seed"] == 42
    assert recipe["loras"] == [{"path": "./my_custom_lora", "weight": 1.0}]
