"""The styles that we can synthesise: tempo, harmony, groove and instruments of each.

Patterns are one bar of sixteenths, a character a step. Drums: a digit is a stroke of that strength. Chords: a digit
strikes,
`-` holds, `.` rests. Bass: r root, f fifth, o octave, t third, w a step towards the next root, `-` holds. Melody: x
strikes, `-` holds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DrumLine:
    """One drum's bar; it plays in sections whose drum level is at least `level` (0 pulse, 1 verse, 2 chorus)."""

    drum: str
    pattern: str
    level: int = 1


@dataclass(frozen=True)
class Style:
    """Everything that distinguishes one style. Tempo in beats a minute; progressions are scale degrees, one a bar."""

    name: str
    tempo: tuple[int, int]
    minor: float
    progressions: tuple[tuple[int, ...], ...]
    drums: tuple[tuple[DrumLine, ...], ...]
    bass: tuple[str, ...]
    bass_patterns: tuple[str, ...]
    chords: tuple[str, ...]
    chord_patterns: tuple[str, ...]
    lead: tuple[str, ...]
    melody_patterns: tuple[str, ...]
    moods: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    extra_patterns: tuple[str, ...] = ()
    chord_size: int = 3
    swing: float = 0.0
    swing_steps: int = 1
    vocals: float = 0.0
    reverb: float = 0.15
    echo: float = 0.0
    pumping: float = 0.0
    hiss: float = 0.0
    fill: str = "acoustic snare"
    cymbal: str = "crash"


def _lines(*lines: tuple[str, str, int]) -> tuple[DrumLine, ...]:
    return tuple(DrumLine(drum, pattern, level) for drum, pattern, level in lines)


_POP = ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 4, 3))
_DARK = ((0, 5, 2, 6), (0, 3, 5, 4), (0, 0, 5, 6), (0, 6, 5, 4))

_STYLES = (
    Style(
        "lofi", (68, 88), 0.6, ((1, 4, 0, 5), (3, 2, 1, 0), (0, 5, 1, 4), (5, 1, 4, 0)),
        (
            _lines(("soft kick", "9.....7...9.....", 1), ("soft snare", "....9.......9...", 1), ("soft hat",
            "7.5.7.5.7.5.7.5.", 0)),
            _lines(("soft kick", "9..5....7.9.....", 1), ("rim", "....9.......9..4", 1), ("soft hat",
            "6.6.6.6.6.6.6.64", 0)),
        ),
        ("soft bass",), ("r-----..f-----..", "r---..r-f---..t-"),
        ("electric piano", "piano"), ("8-------6---7---", "8-----6---------"),
        ("vibraphone", "sine lead", "flute"), ("x---..x-x---....", "..x-x---..x-x---"),
        ("mellow", "relaxed", "warm", "dreamy", "nostalgic"), ("lo-fi", "chillhop"),
        chord_size=4, swing=0.3, vocals=0.1, reverb=0.16, hiss=0.012, fill="soft snare", cymbal="brush",
    ),
    Style(
        "house", (118, 130), 0.6, ((0, 5, 3, 4), (0, 3, 0, 5), (5, 3, 0, 4), (0, 0, 3, 5)),
        (
            _lines(("house kick", "9...9...9...9...", 1), ("clap", "....9.......9...", 1), ("open hat",
            "..8...8...8...8.", 2), ("closed hat", "5.5.5.5.5.5.5.5.", 0)),
            _lines(("house kick", "9...9...9...9...", 1), ("clap", "....9.......9...", 1), ("open hat",
            "..8...8...8...8.", 2), ("shaker", "7575757575757575", 0)),
        ),
        ("house bass",), ("..r-..r-..r-..o-", "r..r..r.r..r..o."),
        ("house organ", "piano", "saw stab"), ("9-.9-.9-..9-....", "..8-..8-..8-..8-", "9-..8-..9-..7-.."),
        ("saw lead", "pluck"), ("x..x..x...x.x...", "x-..x-..x-x-...."),
        ("uplifting", "groovy", "energetic", "bright"), ("deep house", "club"),
        extra=("pluck",), extra_patterns=("0.1.2.1.0.1.2.3.", "0..1..2..1..2.1."),
        vocals=0.35, reverb=0.14, echo=0.2, pumping=0.6, fill="clap",
    ),
    Style(
        "techno", (130, 144), 1.0, ((0, 0, 0, 0), (0, 0, 5, 5), (0, 0, 0, 6)),
        (
            _lines(("hard kick", "9...9...9...9...", 1), ("closed hat", "..9...9...9...9.", 0), ("rim",
            "...6..6....6..6.", 2), ("clap", "....8.......8...", 2)),
            _lines(("hard kick", "9...9...9...9...", 1), ("open hat", "..8...8...8...8.", 2), ("closed hat",
            "4444444444444444", 0), ("low tom", "......6...6....6", 2)),
        ),
        ("acid bass",), ("rrorrfrrorrrfrot", "r.rro.rrr.rof.rr", ".rr..rr..rr..rro"),
        ("saw stab", "analog pad"), ("...8-.....8-....", "8-....8-........"),
        ("pulse lead", "bells"), ("x...x...x...x...", "..x...x....x...."),
        ("dark", "driving", "hypnotic", "industrial"), ("acid", "warehouse"),
        extra=("acid bass",), extra_patterns=("0.02.10.2.01.20.",),
        reverb=0.16, echo=0.25, pumping=0.45, fill="low tom",
    ),
    Style(
        "drum and bass", (166, 180), 0.9, _DARK,
        (
            _lines(("acoustic kick", "9.........9.....", 1), ("break snare", "....9..4.4..9..5", 1), ("closed hat",
            "7.7.7.7.7.7.7.7.", 0), ("ride", "7...7...7...7...", 2)),
            _lines(("acoustic kick", "9..9......9.....", 1), ("break snare", "....9......4.9..", 1), ("closed hat",
            "7777777777777777", 0), ("open hat", "..7.....7.......", 2)),
        ),
        ("reese bass",), ("r-------------f-", "r-----r---o---f-"),
        ("warm pad", "glass pad"), ("7---------------",),
        ("saw lead", "bells"), ("x-----x---x-----", "x---x-----x-x---"),
        ("energetic", "dark", "liquid", "fast"), ("dnb", "jungle"),
        extra=("pluck",), extra_patterns=("0.1.2.3.2.1.0.1.",),
        vocals=0.2, reverb=0.2, echo=0.2, fill="break snare",
    ),
    Style(
        "trap", (132, 152), 1.0, _DARK,
        (
            _lines(("808 kick", "9.....7.....9...", 1), ("trap snare", "........9.......", 1), ("closed hat",
            "8.8.8.8.8.8.8.8.", 0), ("closed hat", ".....5.......575", 2)),
            _lines(("808 kick", "9..7......9.....", 1), ("trap snare", "........9......4", 1), ("closed hat",
            "8.6.8.6.8.6.8.6.", 0), ("snap", "........7.......", 2)),
        ),
        ("808 bass",), ("r-----....r-----", "r--r----r---f---"),
        ("bells", "piano", "glass pad"), ("7---....6---....", "7-------6-------"),
        ("flute", "bells", "sine lead"), ("x.x...x.x.......", "x...x.x...x....."),
        ("dark", "menacing", "cold", "hard"), ("hip hop", "drill"),
        extra=("bells",), extra_patterns=("0...2...1...2...",),
        vocals=0.35, reverb=0.18, fill="trap snare",
    ),
    Style(
        "synthwave", (84, 108), 0.9, ((0, 5, 2, 6), (5, 6, 0, 0), (0, 6, 5, 6), (0, 2, 6, 5)),
        (
            _lines(("house kick", "9.......9.......", 1), ("gated snare", "....9.......9...", 1), ("closed hat",
            "6.6.6.6.6.6.6.6.", 0), ("tom", "..............75", 2)),
            _lines(("house kick", "9...9...9...9...", 1), ("gated snare", "....9.......9...", 1), ("closed hat",
            "6666666666666666", 0)),
        ),
        ("synth bass",), ("rrrrrrrrrrrrrrrr", "r.ror.ror.ror.ro", "r-r-r-r-r-r-o-r-"),
        ("analog pad", "warm pad"), ("7---------------", "7-------7-------"),
        ("saw lead", "square lead"), ("x-----x---x-x---", "x---x---x-------"),
        ("retro", "neon", "nostalgic", "cinematic"), ("retrowave", "eighties"),
        extra=("pluck",), extra_patterns=("0123012301230123", "0.2.1.3.0.2.1.3."),
        vocals=0.25, reverb=0.2, echo=0.25, fill="tom",
    ),
    Style(
        "ambient", (60, 78), 0.5, ((0, 3, 5, 4), (0, 2, 3, 0), (5, 3, 0, 0)),
        (
            _lines(("soft kick", "7.......5.......", 1), ("shaker", "..5...5...5...5.", 0), ("brush",
            "........5.......", 2)),
            _lines(("soft kick", "7...............", 1), ("rim", "....4.......4...", 2), ("shaker",
            "5...5...5...5...", 0)),
        ),
        ("dub bass",), ("r---------------", "r-------f-------"),
        ("glass pad", "warm pad", "strings"), ("8---------------",),
        ("bells", "flute", "vibraphone"), ("x-------x---....", "x---x-------....", "....x-------x---"),
        ("calm", "spacious", "floating", "peaceful"), ("atmospheric", "drone"),
        extra=("vibraphone", "bells"), extra_patterns=("0...1...2...3...", "0.....2.....1..."),
        reverb=0.5, echo=0.3, fill="brush", cymbal="brush",
    ),
    Style(
        "rock", (112, 146), 0.5, ((0, 3, 4, 3), (0, 6, 3, 0), (0, 4, 5, 3), (5, 3, 0, 4)),
        (
            _lines(("acoustic kick", "9.....7.9.......", 1), ("acoustic snare", "....9.......9...", 1), ("closed hat",
            "8.6.8.6.8.6.8.6.", 0), ("crash", "7.......7.......", 2)),
            _lines(("acoustic kick", "9.9...9...9.....", 1), ("acoustic snare", "....9.......9..4", 1), ("closed hat",
            "8...8...8...8...", 0), ("ride", "8.8.8.8.8.8.8.8.", 2)),
        ),
        ("picked bass",), ("r-r-r-r-r-r-r-r-", "r-r-r-r-f-f-r-o-"),
        ("distorted guitar",), ("9-9-9-9-9-9-9-9-", "9-----9-8-------", "9---8-8-9---8---"),
        ("guitar lead",), ("x-x-x---x-x-x---", "x---x-x-x-----x-"),
        ("loud", "powerful", "raw", "driving"), ("hard rock", "garage rock"),
        vocals=0.5, reverb=0.1,
    ),
    Style(
        "reggae", (66, 84), 0.4, ((0, 3, 0, 4), (0, 5, 3, 4), (0, 0, 3, 4), (0, 1, 0, 1)),
        (
            _lines(("acoustic kick", "........9.......", 1), ("rim", "........9.......", 1), ("closed hat",
            "7.5.7.5.7.5.7.5.", 0), ("conga", "...5..5......5..", 2)),
            _lines(("acoustic kick", "9.......9.......", 1), ("rim", "....8.......8...", 1), ("shaker",
            "6464646464646464", 0), ("open hat", "......6.......6.", 2)),
        ),
        ("dub bass",), ("r---..f-o-..r---", "r-r-..f-..r-t-f-"),
        ("organ", "clean guitar"), ("....9.......9...", "..8...8...8...8."),
        ("saxophone", "brass"), ("x-x---..x-x-....", "..x-x-x-........"),
        ("sunny", "laid back", "warm", "easy"), ("dub", "roots"),
        extra=("organ",), extra_patterns=(".0.2.0.2.0.2.0.2",),
        swing=0.2, vocals=0.4, reverb=0.16, echo=0.35, fill="tom",
    ),
    Style(
        "funk", (96, 116), 0.6, ((0, 0, 3, 3), (0, 3, 0, 4), (0, 0, 0, 3), (1, 4, 1, 4)),
        (
            _lines(("acoustic kick", "9..7......9..7..", 1), ("acoustic snare", "....9..3.3..9...", 1), ("closed hat",
            "8585858585858585", 0), ("tambourine", "....7.......7...", 2)),
            _lines(("acoustic kick", "9.9....7..9.....", 1), ("acoustic snare", "....9..4....9..4", 1), ("closed hat",
            "8.858.858.858.85", 0), ("conga", "..5..5.5..5..5.5", 2)),
        ),
        ("slap bass",), ("r..ro..r..f.o.r.", "r.r..o.r.f..r.o.", "r..r..o.r.t.f.o."),
        ("clavinet", "clean guitar"), ("8.78..8.7.8..87.", "..8.8..8..8.8.7.", "8..7.8..8.7..8.."),
        ("brass", "saxophone"), ("x.x...x...x.x...", "..x.x.x-....x-.."),
        ("funky", "groovy", "tight", "playful"), ("soul", "groove"),
        extra=("brass",), extra_patterns=("......0.......12",),
        chord_size=4, vocals=0.3, reverb=0.08,
    ),
    Style(
        "jazz", (108, 150), 0.4, ((1, 4, 0, 5), (0, 5, 1, 4), (3, 6, 2, 5), (1, 4, 0, 0)),
        (
            _lines(("ride", "9...9.7.9...9.7.", 1), ("soft kick", "5.....4...5.....", 1), ("brush",
            "....6.......6...", 0), ("soft snare", "......5.......4.", 2)),
            _lines(("ride", "9...8.8.9...8.8.", 1), ("soft kick", "5...........4...", 1), ("brush",
            "....7.......7..5", 0), ("rim", "............6...", 2)),
        ),
        ("upright bass",), ("r---t---f---w---", "r---f---t---w---", "r---t---o---w---"),
        ("piano", "electric piano", "vibraphone"), ("..8---......7---", "7-....8---......", "......8---......"),
        ("saxophone", "flute", "brass"), ("x-x-x-x---x-x-..", "..x-x-x-x-x---..", "x---x-x-..x-x-x-"),
        ("smooth", "smoky", "elegant", "late night"), ("swing", "bebop"),
        chord_size=4, swing=0.62, swing_steps=2, vocals=0.2, reverb=0.14, fill="soft snare", cymbal="ride",
    ),
    Style(
        "folk", (90, 122), 0.3, ((0, 3, 0, 4), (0, 5, 3, 4), (0, 4, 3, 0), (5, 3, 0, 4)),
        (
            _lines(("soft kick", "8.......8.......", 1), ("tambourine", "....8.......8...", 1), ("shaker",
            "7.4.7.4.7.4.7.4.", 2)),
            _lines(("soft kick", "8...8...8...8...", 1), ("snap", "....8.......8...", 1), ("shaker",
            "6.6.6.6.6.6.6.6.", 2)),
        ),
        ("upright bass",), ("r-------f-------", "r-----r-f-------"),
        ("acoustic guitar",), ("9---7-8-7-8-7-8-", "9-----7-8---7-7-", "9-7-8-7-9-7-8-7-"),
        ("flute", "accordion"), ("x---x-x-x-------", "x-x-x---x---x---"),
        ("gentle", "acoustic", "intimate", "hopeful"), ("singer-songwriter", "country"),
        extra=("nylon guitar",), extra_patterns=("0.2.1.3.0.2.1.3.",),
        vocals=0.6, reverb=0.1, fill="tambourine", cymbal="tambourine",
    ),
    Style(
        "chiptune", (126, 160), 0.4, _POP,
        (
            _lines(("chip kick", "9...9...9...9...", 1), ("chip snare", "....8.......8...", 1), ("chip hat",
            "7.7.7.7.7.7.7.7.", 0), ("chip snare", "..............66", 2)),
            _lines(("chip kick", "9.....9.9.......", 1), ("chip snare", "....8.......8..6", 1), ("chip hat",
            "7777777777777777", 0)),
        ),
        ("chip bass",), ("r.o.r.o.r.o.r.o.", "rrorrrorrrorfrof"),
        ("pulse lead", "square lead"), ("7.7.7.7.7.7.7.7.", "8-..8-..8-..8-.."),
        ("square lead",), ("x.xxx.x.x.x.x-..", "x-x-xxx-x.x.x-x-"),
        ("playful", "retro", "bouncy", "bright"), ("8-bit", "video game"),
        extra=("pulse lead",), extra_patterns=("0120120120120120", "0213021302130213"),
        reverb=0.0, echo=0.12, fill="chip snare", cymbal="chip snare",
    ),
    Style(
        "orchestral", (76, 104), 0.6, ((0, 5, 3, 4), (0, 3, 6, 2), (0, 4, 5, 3), (0, 6, 5, 4)),
        (
            _lines(("timpani", "9.......7.......", 1), ("tambourine", "..6...6...6...6.", 2), ("crash",
            "7...............", 2)),
            _lines(("timpani", "9.....5.7.....55", 1), ("soft snare", "7.557.557.557.55", 2)),
        ),
        ("low strings",), ("r-------r-------", "r---f---r---f---"),
        ("strings",), ("8---8---8---8---", "8-8-8-8-8-8-8-8-", "8-------8-------"),
        ("brass", "flute"), ("x-----x-x---x---", "x-------x---x-x-"),
        ("epic", "cinematic", "heroic", "majestic"), ("symphonic", "film score"),
        extra=("bells", "strings"), extra_patterns=("0.1.2.1.3.1.2.1.", "0...1...2...3..."),
        reverb=0.35, fill="timpani",
    ),
)  # fmt: skip

_NOVEL = (
    Style(
        "gamelan waltz", (132, 156), 0.5, ((0, 4, 5, 4), (0, 2, 4, 0), (5, 4, 0, 0)),
        (
            _lines(("tabla low", "9...........", 0), ("tabla high", "....8...8.5.", 0), ("tabla high", "..5...5....6",
            2), ("shaker", "6.4.6.4.6.4.", 1)),
            _lines(("tabla low", "9.....5.....", 0), ("tabla high", "....8..58...", 0), ("tambourine", "....5...5...",
            2)),
        ),
        ("gong",), ("r-----------", "r-------f---"),
        ("gamelan",), ("8...6...6...", "8...6.6.6..."),
        ("music box",), ("x-x-x-x-x-x-", "x---x-x-x---"),
        ("hypnotic", "shimmering", "ceremonial", "metallic"), ("gamelan", "tabla"),
        extra=("gamelan",), extra_patterns=("0.2.1.3.2.1.",),
        reverb=0.28, fill="tabla high", cymbal="shaker",
    ),
)  # fmt: skip

STYLES: dict[str, Style] = {style.name: style for style in _STYLES}
NOVEL_STYLES: dict[str, Style] = {style.name: style for style in _NOVEL}
