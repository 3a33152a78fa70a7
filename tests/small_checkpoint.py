"""The tiny released-layout checkpoint with a lyric vocabulary, so that whole pipelines run without ../shared."""

from __future__ import annotations

import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from reference_data import reference_path

TAGS = ("[verse]", "[chorus]", "[intro]", "[outro]", "[bridge]")


def make_checkpoint(folder: Path) -> Path:
    """A copy of the tiny checkpoint in `folder`, which must not exist, with letters for a vocabulary."""
    shutil.copytree(reference_path("tiny/checkpoint"), folder, copy_function=shutil.copyfile)
    write_letter_vocabulary(folder / "lyric_tokenizer" / "vocab.json")
    return folder


def write_letter_vocabulary(path: Path, *, extra: tuple[str, ...] = ()) -> None:
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", *TAGS, *extra]
    letters = [chr(code) for code in range(33, 127) if chr(code) not in "[]"]
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
