import hashlib

import numpy as np
import pytest

from acestep.audio.streaming import Audio
from acestep.datasets.annotations import Annotation
from acestep.datasets.augmentation import SEMITONES, Augmentation, Change, mean_power
from acestep.errors import InputError

RATE = 44100
CONTENTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(20)]
PLAIN = Annotation("lofi")


def test_a_copy_depends_on_content_number_and_kinds_alone():
    few, many = Augmentation(variants=2), Augmentation(variants=9)
    for content in CONTENTS:
        assert many.changes(content, PLAIN, 60)[:2] == few.changes(content, Annotation("rock"), 99)
    tempo = Augmentation(pitch_shift=False, variants=9)
    drawn = [change.tempo for change in many.changes(CONTENTS[0], PLAIN, 60)]
    assert [change.tempo for change in tempo.changes(CONTENTS[0], PLAIN, 60)] == drawn
    assert len({few.changes(content, PLAIN, 60) for content in CONTENTS}) == len(CONTENTS)


def test_copies_lie_within_the_ranges_and_fill_them():
    all_on = Augmentation(add_noise=True, variants=4)
    changes = [change for content in CONTENTS for change in all_on.changes(content, PLAIN, 60)]
    assert all(0.9 <= change.tempo <= 1.1 for change in changes)
    assert min(change.tempo for change in changes) < 0.92
    assert max(change.tempo for change in changes) > 1.08
    assert all(35 <= (change.snr_db or 0) <= 50 for change in changes)
    for content in CONTENTS:
        ours = all_on.changes(content, PLAIN, 60)
        assert sorted(change.semitones for change in ours) == sorted(SEMITONES)
        tempos = sorted(change.tempo for change in ours)
        assert tempos[-1] - tempos[0] > 0.08


def test_what_is_off_is_off_and_equal_copies_are_kept_once():
    assert Augmentation(False, False, False).changes(CONTENTS[0], PLAIN, 60) == ()
    assert Augmentation(variants=0).changes(CONTENTS[0], PLAIN, 60) == ()
    pitches = Augmentation(True, False, False, variants=12).changes(CONTENTS[0], PLAIN, 60)
    assert len(pitches) == 4
    assert {change.tempo for change in pitches} == {1.0}
    assert len({Augmentation(False, False, True).changes(CONTENTS[0], PLAIN, 60)}) == 1


def test_a_key_that_cannot_be_read_keeps_its_pitch_and_a_speck_has_no_copies():
    camelot = Annotation("techno", key="8A")
    assert {change.semitones for change in Augmentation().changes(CONTENTS[0], camelot, 60)} == {0}
    assert Augmentation(time_stretch=False).changes(CONTENTS[0], camelot, 60) == ()
    assert Augmentation().changes(CONTENTS[0], PLAIN, 0.9) == ()


@pytest.mark.parametrize("variants", [-1, 33])
def test_an_impossible_number_of_copies_is_refused(variants: int):
    with pytest.raises(InputError, match="expected 0 to 32"):
        Augmentation(variants=variants)


def test_bpm_and_key_follow_and_lyrics_stay():
    annotation = Annotation("lofi in E minor at 90 bpm", "E minor, 90 bpm", ("90 BPM", "mellow"), 90.0, "E minor")
    changed = Change(semitones=-2, tempo=1.1).annotate(annotation)
    assert changed.text_prompt() == "lofi in D minor at 99 bpm, mellow"
    assert changed.lyrics == annotation.lyrics
    assert changed.bpm == pytest.approx(99)
    assert changed.key == "D minor"
    told = Change(semitones=1, tempo=0.9).annotate(Annotation("lofi", bpm=82, key="A major"))
    assert told.text_prompt() == "lofi, 74 bpm, Bb major"
    assert Change().annotate(annotation) == annotation
    assert Change(tempo=1.05).annotate(Annotation("x", key="8A")).key == "8A"


def white(seconds: float) -> Audio:
    return np.random.default_rng(0).uniform(-0.2, 0.2, (2, round(seconds * RATE))).astype(np.float32)


def applied(change: Change, audio: Audio, block: int = RATE) -> Audio:
    blocks = [audio[:, start : start + block] for start in range(0, audio.shape[1], block)]
    return np.concatenate(list(change.apply(blocks, RATE, power=mean_power(blocks))), axis=1)


def test_noise_lies_below_the_music_by_its_ratio_and_is_drawn_once():
    audio = white(2)
    change = Change(snr_db=40.0, noise_seed=7)
    noise = applied(change, audio) - audio
    assert 10 * np.log10(mean_power([audio]) / mean_power([noise])) == pytest.approx(40, abs=0.1)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.02
    np.testing.assert_array_equal(applied(change, audio, block=777), applied(change, audio))
    assert not np.array_equal(applied(Change(snr_db=40.0, noise_seed=8), audio), applied(change, audio))


def test_a_copy_stays_within_full_scale_and_has_its_length():
    audio = 5 * white(2)
    copy = applied(Change(semitones=2, tempo=0.93, snr_db=35.0), audio)
    assert copy.shape[1] == round(audio.shape[1] / 0.93)
    assert np.abs(copy).max() <= 1
    np.testing.assert_array_equal(applied(Change(), audio), audio)


def test_each_copy_has_its_own_origin_and_the_recording_none():
    assert Change().origin() == {}
    changes = [Change(1), Change(-1), Change(1, 1.05), Change(1, 1.05, 40.0, 1), Change(1, 1.05, 40.0, 2)]
    assert len({str(sorted(change.origin().items())) for change in changes}) == len(changes)
    assert [str(change) for change in (Change(), Change(1, 1.05, 40.0))] == [
        "as recorded",
        "+1 semitones, tempo x 1.05, noise 40 dB below",
    ]
