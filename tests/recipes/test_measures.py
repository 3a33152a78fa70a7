import numpy as np
import torch
from recipes.nano.features import log_mel
from recipes.nano.measures import estimate_key, estimate_tempo, frechet_distance, related_keys, tempo_matches

from acestep.datasets.synthesis import make_track


def test_the_tempo_of_a_synthesised_track_is_found():
    for style, seed in (("house", 1), ("rock", 2), ("lofi", 3)):
        track = make_track(style, seed=seed, duration_s=15.0, form=("verse",))
        assert tempo_matches(estimate_tempo(log_mel(torch.from_numpy(track.audio)).numpy()), track.bpm)


def test_double_and_half_tempo_count_and_a_third_does_not():
    assert tempo_matches(60, 120)
    assert tempo_matches(240, 120)
    assert not tempo_matches(80, 120)


def test_the_key_of_a_scale_is_found():
    time = np.arange(44100 // 2) / 44100
    scale = [440 * 2 ** (step / 12) for step in (0, 2, 3, 5, 7, 8, 10, 12, 7, 3, 0)]
    audio = np.concatenate([np.sin(2 * np.pi * pitch * time) for pitch in scale])
    assert estimate_key(np.stack([audio, audio])) == "A minor"


def test_a_key_and_its_relative_share_their_notes():
    assert related_keys("A minor") == {"A minor", "C major"} == related_keys("C major")


def test_the_frechet_distance_of_a_set_to_itself_is_nothing_and_a_shift_counts_squared():
    features = np.random.default_rng(0).standard_normal((200, 4))
    assert abs(frechet_distance(features, features)) < 1e-6
    assert abs(frechet_distance(features, features + 2.0) - 16.0) < 1e-6
