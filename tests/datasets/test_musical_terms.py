import pytest

from acestep.datasets.musical_terms import (
    MAJOR_NAMES,
    MINOR_NAMES,
    is_key,
    named_key,
    named_tempo,
    scale_tempos,
    transpose_key,
    transpose_text,
)


@pytest.mark.parametrize(
    ("key", "semitones", "expected"),
    [
        ("E minor", 2, "F# minor"),
        ("E minor", -2, "D minor"),
        ("C major", 1, "Db major"),
        ("C minor", 1, "C# minor"),
        ("Bb Major", 2, "C Major"),
        ("B", 1, "C"),
        ("Am", 2, "Bm"),
        ("Gmin", 1, "G#min"),
        ("c# minor", -1, "c minor"),
        ("B flat minor", 1, "B minor"),
        ("B minor", -1, "Bb minor"),
        ("B flat major", -2, "A flat major"),
        ("F♯ dorian", -1, "F dorian"),
        ("E♭ major", -2, "D♭ major"),
        ("E-minor", 1, "F-minor"),
    ],
)
def test_keys_move_and_keep_the_way_they_are_written(key: str, semitones: int, expected: str):
    assert transpose_key(key, semitones) == expected


def test_up_and_down_again_is_the_same_key():
    for mode, names in (("major", MAJOR_NAMES), ("minor", MINOR_NAMES)):
        for name in names:
            for semitones in (-2, -1, 1, 2):
                there = transpose_key(f"{name} {mode}", semitones)
                assert there != f"{name} {mode}"
                assert transpose_key(there, -semitones) == f"{name} {mode}"


@pytest.mark.parametrize("text", ["", "8A", "atonal", "H-Moll", "E minor or G", "minor", "Hm", "E minor chord"])
def test_what_is_no_key_is_not_read_as_one(text: str):
    assert not is_key(text)
    with pytest.raises(ValueError, match="is no key"):
        transpose_key(text, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lofi, E minor, piano", "lofi, F# minor, piano"),
        ("from E minor to G major.", "from F# minor to A major."),
        ("lofi, Em, piano", "lofi, F#m, piano"),
        ("a song in the key of G", "a song in the key of A"),
        ("Key: Bbm, slow", "Key: Cm, slow"),
        ("in A minor, slow", "in B minor, slow"),
        # What may be an article, a chord or another word stays.
        ("a minor change in a major way", "a minor change in a major way"),
        ("A major hit", "A major hit"),
        ("the key is a mystery", "the key is a mystery"),
        ("I am slow; Cmaj7 chords, C minor7", "I am slow; Cmaj7 chords, C minor7"),
        ("Elmajor, keyboard, key change", "Elmajor, keyboard, key change"),
    ],
)
def test_keys_in_a_prompt_move(text: str, expected: str):
    assert transpose_text(text, 2) == expected


def test_the_annotated_key_moves_wherever_it_is_said():
    assert transpose_text("piece in a minor key", 2, key="A minor") == "piece in b minor key"
    assert transpose_text("A minor groove in Am", 2, key="A minor") == "B minor groove in Am"
    assert transpose_text("slow, in Am and more", 2, key="Am") == "slow, in Bm and more"
    assert transpose_text("A slow one", 2, key="A") == "A slow one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lofi, 100 bpm", "lofi, 110 bpm"),
        ("100BPM and 90-bpm", "110BPM and 99-bpm"),
        ("100-120 bpm", "110-132 bpm"),
        ("100 to 120 BPM", "110 to 132 BPM"),
        ("at 92.5 beats per minute", "at 102 beats per minute"),
        ("tempo: 100, BPM 100", "tempo: 110, BPM 110"),
        ("BPM: 100 bpm", "BPM: 110 bpm"),
        # Numbers that are no tempo stay.
        ("1980s, 808 drums, 24 bit, tempo 4", "1980s, 808 drums, 24 bit, tempo 4"),
        ("2100 bpm", "2100 bpm"),
    ],
)
def test_tempos_in_a_prompt_follow(text: str, expected: str):
    assert scale_tempos(text, 1.1) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("lofi, piano, E minor, 80 bpm", "E minor"),
        ("house, Am, warm", "A minor"),
        ("in the key of G, folk", "G major"),
        ("Ab minor, techno", "G# minor"),
        ("C# Major ballad", "Db major"),
        ("B flat minor, strings", "Bb minor"),
        ("a minor change of mood", None),
        ("A minor key change", None),
        ("A minor, slow", "A minor"),
        ("F dorian, modal jazz", None),
        ("C major, then E minor", None),
        ("C major, C major again", "C major"),
        ("drums only", None),
        ("", None),
        ("E-minor waltz", "E minor"),
        ("Cb major", "B major"),
    ],
)
def test_the_key_that_a_prompt_names_is_read(prompt: str, expected: str | None):
    found = named_key(prompt)
    assert (None if found is None else found.name) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("techno, 128 bpm, dark", (128, 128)),
        ("120-130 BPM house", (120, 130)),
        ("130 to 120 bpm", (120, 130)),
        ("tempo: 92", (92, 92)),
        ("92.5 beats per minute", (92.5, 92.5)),
        ("92 bpm, and 92 bpm once more", (92, 92)),
        ("80 bpm, later 160 bpm", None),
        ("the 80s", None),
        ("", None),
    ],
)
def test_the_tempo_that_a_prompt_names_is_read(prompt: str, expected: tuple[float, float] | None):
    assert named_tempo(prompt) == expected
