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
embedded base model of acestep: it makes simple, real music on a laptop's CPU, so that generating, training a LoRA and
comparing all work the minute the package is installed. It is not a small ACE-Step: it knows {count} styles of
synthesised music and nothing else.

- **Prompts**: tags such as `lofi, mellow, electric piano, 82 bpm, A minor`. Styles: {styles}.
  Words it does not know are spelled in letters and mean nothing to it.
- **Lyrics**: structure tags `[intro]` `[verse]` `[chorus]` `[bridge]` `[inst]` `[outro]` shape the song; words give a
  sung-vowel voice, not intelligible singing.
- **Durations**: it was trained on 12 to 60 s; beyond that it has to extrapolate.
- **Training data**: synthesised by rule in `acestep.datasets.synthesis`; no recording of anybody is in it. The style
  {novel} is kept from every stage, so that a LoRA has something to teach.

## What it reaches
Measured by `recipes/nano/evaluate.py` on seeds that no stage saw: {clips} clips of 24 s and {songs} songs of 60 s,
sampled with the defaults in `family.json`. "Real" is the same measure on held-out synthesised tracks, "coded" on
{coded} of them behind nano's own autoencoder and vocoder: what is missing there is the measure's error and the codec's,
not the transformer's.

| measure | generated | real | coded |
|---|---|---|---|
"""


def write_card(folder: Path, result: dict[str, Any]) -> None:
    """Write README.md into the checkpoint folder."""
    generated, real, coded = result["generated"], result["real"], result["real_through_codec"]
    structure, frechet, codec = result["structure"], result["frechet"], result["codec"]
    measures = {
        "style": "style recognised as asked (classifier trained on real clips alone)",
        "tempo": "tempo within 4 %, double and half allowed",
        "key": "key as asked",
        "key_or_relative": "key as asked, or its relative",
        "silent": "silent",
        "clipped": "clipped",
    }
    commonest = _percent(structure["commonest_section"])
    lines = [
        *(
            _row(text, *(_percent(group[name]) for group in (generated, real, coded)))
            for name, text in measures.items()
        ),
        _row("tempo of the songs of 60 s", _percent(result["tempo_over_60_s"])),
        _row(
            f"structure kept over 60 s (guessing the commonest section: {commonest})",
            _percent(structure["generated"]),
            _percent(structure["real"]),
        ),
        _row(
            "Frechet distance of log-mel statistics to other real clips",
            f"{frechet['generated_to_real']:.2f}",
            f"{frechet['real_to_real']:.2f}",
        ),
        _row("log-mel error of the autoencoder, nats (L1)", coded=f"{codec['autoencoder']:.3f}"),
        _row("log-mel error of autoencoder and vocoder, nats (L1)", coded=f"{codec['with_vocoder']:.3f}"),
        "",
        "Of the generated clips, by style:",
        "",
        "| style | recognised | tempo | key |",
        "|---|---|---|---|",
    ]
    for name, one in result["generated_per_style"].items():
        lines.append(f"| {name} | {_percent(one['style'])} | {_percent(one['tempo'])} | {_percent(one['key'])} |")
    lines += ["", f"A clip of 24 s took {result['seconds_per_clip']:.1f} s on the machine that measured.", ""]
    text = _HEADER.format(
        count=len(STYLES),
        styles=", ".join(STYLES),
        novel=", ".join(NOVEL_STYLES),
        clips=result["clips"],
        songs=result["songs_of_60_s"],
        coded=result["coded_clips"],
    )
    (folder / "README.md").write_text(text + "\n".join(lines), encoding="utf-8")


def _row(measure: str, generated: str = "", real: str = "", coded: str = "") -> str:
    return f"| {measure} | {generated} | {real} | {coded} |"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
