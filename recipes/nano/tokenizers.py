"""Stage 0: nano's two tokenizers, in the file formats of the released checkpoint's.

Prompts: WordPiece over whole words, so that every tempo from 40 to 220, every key and every tag is one token; other
words fall
apart into letters. Lyrics: a small BPE trained on the song lines, with the special tokens of the v1 vocabulary under
the
same names: [START] begins a song, [SPACE] stands for spaces and line ends, [en] and the like for the language.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from acestep.datasets.synthesis import STYLES
from acestep.datasets.synthesis.captions import write_lines
from acestep.datasets.synthesis.theory import PITCH_CLASSES

TEMPOS = range(40, 221)
LANGUAGES = ("en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "zh-cn", "hu", "ja", "ko", "hi")
STRUCTURE_TAGS = (
    "start",
    "intro",
    "verse",
    "chorus",
    "bridge",
    "outro",
    "end",
    "inst",
    "solo",
    "hook",
    "pre-chorus",
    "break",
)
_SPELLINGS = {"db": "c#", "d#": "eb", "gb": "f#", "g#": "ab", "a#": "bb"}
_EXTRA_WORDS = [
    "bpm",
    "major",
    "minor",
    "instrumental",
    "female",
    "male",
    "vocal",
    "vocals",
    "voice",
    "singing",
    "sung",
    "fast",
    "slow",
    "beat",
    "drums",
    "bass",
    "guitar",
    "piano",
    "pad",
    "lead",
    "synth",
    "melody",
    "chords",
    "song",
    "music",
    "track",
    "electronic",
    "acoustic",
    "pop",
    "dance",
    "loop",
    "solo",
    "with",
    "and",
    "the",
    "of",
    "in",
    "a",
    "an",
    "for",
    "on",
    "key",
    "tempo",
    "happy",
    "sad",
    "dark",
    "bright",
    "soft",
    "loud",
    "deep",
    "hard",
    "old",
    "new",
    "school",
    "electric",
    "organ",
    "strings",
    "brass",
    "flute",
    "sax",
    "saxophone",
    "bell",
    "gentle",
    "heavy",
    "light",
    "percussion",
]
LYRIC_VOCABULARY = 300


def write_prompt_tokenizer(folder: Path) -> int:
    """Write tokenizer.json and its companions into `folder`. -> vocabulary size"""
    words = [*_EXTRA_WORDS, *(name.lower() for name in PITCH_CLASSES)]
    for style in STYLES.values():
        names = (style.name, *style.synonyms, *style.moods, *style.bass, *style.chords, *style.lead, *style.extra)
        words.extend(word for name in names for word in name.split())
    letters = string.ascii_lowercase + string.digits + "#'&+-"
    pieces = ["<pad>", "</s>", "<unk>", *map(str, TEMPOS), *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=60))
    spellings = [
        normalizers.Replace(Regex(rf"(?<![a-z0-9#]){old}(?![a-z0-9#])"), new) for old, new in _SPELLINGS.items()
    ]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *spellings])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^a-z0-9#'&+\-]+"), "removed")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return len(vocabulary)


def write_lyric_tokenizer(file: Path) -> int:
    """Write vocab.json. -> vocabulary size"""
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", *(f"[{name}]" for name in (*LANGUAGES, *STRUCTURE_TAGS))]
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=LYRIC_VOCABULARY, special_tokens=[AddedToken(token, normalized=False) for token in special],
        initial_alphabet=list(string.ascii_lowercase + string.digits + "!'(),-./:;?"), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(write_lines(4000, np.random.default_rng(6)), trainer)
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))
    return tokenizer.get_vocab_size()
