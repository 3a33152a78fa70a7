from acestep.datasets.synthesis.voice import syllables


def test_a_line_has_one_vowel_for_each_vowel_group():
    assert syllables("the moon is falling") == ["e", "o", "i", "a", "i"]


def test_a_line_without_vowels_is_still_sung():
    assert syllables("hmm") == ["a"]
