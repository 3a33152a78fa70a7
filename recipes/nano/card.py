"""nano's model card, with the numbers that evaluate.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestep.datasets.synthesis import NOVEL_STYLES, STYLES

_HEADER = """---
license: apache-2.0
library_name: acesteps
pipeline_tag: text-to-audio
tags: [music, ace-step, text-to-music, synthetic-data]
---
# nano

The ACE-Step v1 architecture at a small size, trained from nothing on music that `recipes/nano` synthesises. It is the
embedded base model of
acestep: it makes simple, real music on a laptop's CPU, so that generating, training a LoRA and comparing all work the
minute the package is
installed. It is not a small ACE-Step: it knows {count} styles of synthesised music and nothing else.

- **Prompts**: tags such as `lofi, mellow, electric piano, 82 bpm, A minor`. Styles: {styles}. Words it does not know
are spelled in letters and mean nothing to it.
- **Lyrics**: structure tags `[intro]` `[verse]` `[chorus]` `[bridge]` `[inst]` `[outro]` shape the song; words give a
sung-vowel voice, not intelligible singing.
- **Durations**: it was trained on 12 to 60 s; beyond that it has to extrapolate.
- **Training data**: synthesised by rule in `acestep.datasets.synthesis`; no recording of anybody is in it. The style
{novel} is kept from every stage, so that a LoRA has something to teach.

## What it reaches
Measured by `recipes/nano/evaluate.py` on seeds that no stage saw: {clips} clips of 24 s and {songs} songs of 60 s,
sampled with the defaults in `family.json`. "Real" is the
same measure on held-out synthesised tracks, so the difference to 100 % there is the measure's own error.

| measure | generated | real |
|---|---|---|
"""


def write_card(folder: Path, result: dict[str, Any]) -> None:
    """Write README.md into the checkpoint folder."""
    generated, real, structure = result["generated"], result["real"], result["structure"]
    rows = [
        ("style recognised as asked (classifier trained on real clips only)", generated["style"], real["style"]),
        ("tempo within 4 %, double and half allowed", generated["tempo"], real["tempo"]),
        ("tempo, songs of 60 s", result["tempo_over_60_s"], None),
        ("key as asked", generated["key"], real["key"]),
        ("key as asked or its relative", generated["key_or_relative"], real["key_or_relative"]),
        (f"structure kept over 60 s (always the commonest section: {_percent(structure['commonest_section'])})",
        structure["generated"], structure["real"]),
        ("silent clips", generated["silent"], real["silent"]),
        ("clipped clips", generated["clipped"], real["clipped"]),
    ]  # fmt: skip
    lines = [
        f"| {name} | {_percent(value)} | {_percent(other) if other is not None else ''} |"
        for name, value, other in rows
    ]
    frechet, codec = result["frechet"], result["codec"]
    lines += [
        "| Frechet distance of log-mel statistics to other real clips "
        f"| {frechet['generated_to_real']:.2f} | {frechet['real_to_real']:.2f} |",
        f"| autoencoder, log-mel error in nats (L1) | {codec['autoencoder']:.3f} | |",
        f"| autoencoder and vocoder, the same | {codec['with_vocoder']:.3f} | |",
        "",
        "By style, of the generated clips:",
        "",
        "| style | recognised | tempo | key |",
        "|---|---|---|---|",
        *(f"| {name} | {_percent(one['style'])} | {_percent(one['tempo'])} | {_percent(one['key'])} |" for name,
        one in result["generated_per_style"].items()),
        "",
        f"A clip of 24 s took {result['seconds_per_clip']:.1f} s on the machine that measured.",
        "",
    ]  # fmt: skip
    text = _HEADER.format(
        count=len(STYLES),
        styles=", ".join(STYLES),
        novel=", ".join(NOVEL_STYLES),
        clips=result["clips"],
        songs=result["songs_of_60_s"],
    )
    (folder / "README.md").write_text(text + "\n".join(lines), encoding="utf-8")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
