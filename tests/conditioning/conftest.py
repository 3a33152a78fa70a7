"""A lyric vocabulary small enough to read, whose ids are not those of the released one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace

SPECIAL = ("[UNK]", "[verse]", "[STOP]", "[en]", "[START]", "[SPACE]")


def write_vocabulary(path: Path, *, languages: tuple[str, ...] = (), without: str = "") -> Path:
    """Single letters a to z and the special tokens; [UNK] is 0, [START] 4."""
    names = [name for name in (*SPECIAL, *(f"[{code}]" for code in languages)) if name != without]
    symbols = [*names, *"abcdefghijklmnopqrstuvwxyz',.!?0123456789"]
    model = BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[], unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


@pytest.fixture
def english_vocabulary(tmp_path: Path) -> Path:
    return write_vocabulary(tmp_path / "vocab.json")


@pytest.fixture(scope="session")
def all_languages_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    others = ("de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "zh-cn", "ja", "hu", "ko", "hi")
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.json", languages=others)
