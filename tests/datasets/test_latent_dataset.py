from pathlib import Path

import pytest
import torch

from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.errors import DatasetError
from small_family import SmallFamily


def make(root: Path, lengths: list[int], *, crop: int = 20, seed: int = 0) -> LatentDataset:
    cache, family = LatentCache(root), SmallFamily()
    tracks = []
    for index, frames in enumerate(lengths):
        latents, conditioning = (cache.path(kind, index=index) for kind in ("latents", "conditioning"))
        ramp = torch.arange(frames, dtype=torch.float32).expand(8, 16, -1)
        cache.store(latents, {"latents": ramp})
        cache.store(conditioning, family.encode_prompt([f"track {index}"], [""]).tensors())
        tracks.append(CachedTrack(f"{index}.wav", f"content {index}", f"track {index}", frames, latents, conditioning))
    return LatentDataset(tuple(tracks), crop, seed)


def test_a_window_depends_on_seed_epoch_and_index_alone(tmp_path: Path):
    dataset = make(tmp_path, [500, 500])
    starts = {(epoch, i): dataset.at_epoch(epoch)[i].start for epoch in range(3) for i in range(2)}
    again = make(tmp_path, [500, 500])
    for (epoch, i), start in reversed(starts.items()):
        assert again.at_epoch(epoch)[i].start == start
    assert len(set(starts.values())) == 6
    assert make(tmp_path, [500, 500], seed=1)[0].start != starts[0, 0]


def test_a_window_is_what_lies_at_its_start(tmp_path: Path):
    example = make(tmp_path, [500])[0]
    assert torch.equal(example.latents[3, 5], torch.arange(20.0) + example.start)


def test_windows_reach_both_ends_of_a_track(tmp_path: Path):
    dataset = make(tmp_path, [22])
    assert {dataset.at_epoch(epoch)[0].start for epoch in range(60)} == {0, 1, 2}


def test_a_batch_is_as_long_as_its_shortest_track(tmp_path: Path):
    dataset = make(tmp_path, [500, 7, 12])
    assert dataset[1].latents.shape[-1] == 7
    batch = dataset.batch([0, 2])
    assert batch.latents.shape == (2, 8, 16, 12)
    assert batch.tracks == ("0.wav", "2.wav")


def test_a_cache_that_went_away_is_an_error_that_says_what_to_do(tmp_path: Path):
    dataset = make(tmp_path, [30])
    dataset.tracks[0].latents.unlink()
    with pytest.raises(DatasetError, match="prepare the dataset again"):
        dataset[0]


def names(dataset: LatentDataset | None) -> set[str]:
    return {track.name for track in dataset.tracks} if dataset else set()


def test_added_tracks_move_no_other_between_the_sides(tmp_path: Path):
    many = make(tmp_path, [5] * 200)
    some = LatentDataset(many.tracks[:100], 20)
    for dataset in (some, many):
        training, held_out = dataset.split(0.2)
        assert names(training) | names(held_out) == names(dataset)
        assert not names(training) & names(held_out)
    assert names(some.split(0.2)[1]) == names(many.split(0.2)[1]) & names(some)
    assert 25 <= len(names(many.split(0.2)[1])) <= 55


def test_there_is_always_something_to_train_on_and_something_held_out(tmp_path: Path):
    two = make(tmp_path, [5, 5])
    for fraction in (0.001, 0.999):
        training, held_out = two.split(fraction)
        assert len(training) == 1
        assert held_out is not None
        assert len(held_out) == 1


def test_one_track_is_trained_on_and_no_split_holds_nothing_out(tmp_path: Path):
    one, two = make(tmp_path / "one", [5]), make(tmp_path / "two", [5, 5])
    assert one.split(0.5) == (one, None)
    assert two.split(0.0) == (two, None)
