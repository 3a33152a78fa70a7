"""Windows of latents are found at the right shift, with the correlation that the definition gives."""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.evaluation.latent_search import BLOCK, MOST_WINDOWS, Scale, Windows, search

SIZE, HOP = 43, 11


def latents(seed: int, frames: int) -> Tensor:
    """(8, 16, frames) that move slowly, each number about its own level."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(8, 16, frames + 3, generator=generator)
    level = 5 * torch.randn(8, 16, 1, generator=torch.Generator().manual_seed(99))
    return level + noise.unfold(2, 4, 1).sum(-1)


def best(song: Tensor, tracks: list[Tensor]) -> tuple[float, int, int]:
    """-> similarity, track, frame of the song's best window, less its start"""
    sources = [lambda track=track: track for track in tracks]
    scale = Scale.of(sources)
    windows = Windows.of([scale.apply(song)], SIZE, HOP)
    found = [
        (float(value), number, int(frame - start))
        for _, number, places in search(windows, sources, scale)
        for value, frame, start in zip(places.similarity, places.frames, windows.starts, strict=True)
    ]
    return max(found)


def test_correlations_are_those_of_the_definition() -> None:
    track, song = latents(0, 700), latents(1, 60)
    sources = [lambda: track]
    scale = Scale.of(sources)
    windows = Windows.of([scale.apply(song)], SIZE, HOP)
    ((_, _, found),) = search(windows, sources, scale)
    scaled = scale.apply(track)
    for row, window in enumerate(windows.values):
        stretches = scaled.unfold(1, SIZE, 1).movedim(1, 0)
        stretches = stretches - stretches.mean(-1, keepdim=True)
        reference = (stretches * window).sum((1, 2)) / stretches.square().sum((1, 2)).sqrt()
        torch.testing.assert_close(found.similarity[row], reference.max(), rtol=1e-4, atol=1e-5)
        assert int(found.frames[row]) == int(reference.argmax())


def test_a_passage_is_found_at_its_shift_in_any_block() -> None:
    tracks = [latents(seed, 3 * BLOCK) for seed in range(3)]
    for start in (0, BLOCK - 20, 2 * BLOCK + 5, 3 * BLOCK - 107):
        similarity, track, shift = best(tracks[1][..., start : start + 107], tracks)
        assert (track, shift) == (1, start)
        assert similarity > 0.999


def test_loudness_of_latents_and_a_steady_colour_count_for_nothing() -> None:
    tracks = [latents(seed, 600) for seed in range(2)]
    changed = 0.4 * tracks[0][..., 200:300] + torch.randn(8, 16, 1)
    assert best(changed, tracks)[0] > 0.98
    assert best(changed, tracks)[1:] == (0, 200)


def test_unrelated_latents_that_share_their_levels_are_far() -> None:
    assert best(latents(7, 107), [latents(seed, 1000) for seed in range(3)])[0] < 0.3


def test_silence_and_short_songs_have_no_windows() -> None:
    assert len(Windows.of([torch.zeros(128, 100), torch.randn(128, SIZE - 1), torch.zeros(128, 0)], SIZE, HOP)) == 0
    assert len(Windows.of([], SIZE, HOP)) == 0


def test_a_silent_or_short_track_is_like_nothing() -> None:
    song, silent = latents(0, 107), torch.full((8, 16, 500), 0.3)
    sources = [lambda: song, lambda: silent, lambda: song[..., : SIZE - 1]]
    scale = Scale.of(sources)
    windows = Windows.of([scale.apply(song)], SIZE, HOP)
    found = {number: places for _, number, places in search(windows, sources, scale)}
    assert set(found) == {0, 1}
    assert float(found[1].similarity.abs().max()) < 0.2


def test_a_track_of_one_level_only_gives_finite_numbers() -> None:
    silent = torch.zeros(8, 16, 100)
    scale = Scale.of([lambda: silent])
    assert scale.apply(silent).isfinite().all()


def test_many_windows_are_searched_for_in_parts() -> None:
    track = latents(0, 600)
    scale = Scale.of([lambda: track])
    songs = [scale.apply(track)[:, start : start + SIZE] for start in range(MOST_WINDOWS + 5)]
    parts = list(search(Windows.of(songs, SIZE, HOP), [lambda: track], scale))
    assert [rows for rows, _, _ in parts] == [slice(0, MOST_WINDOWS), slice(MOST_WINDOWS, MOST_WINDOWS + 5)]
    assert torch.cat([found.frames for *_, found in parts]).tolist() == list(range(MOST_WINDOWS + 5))
