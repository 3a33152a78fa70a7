from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acestep.datasets.augmentation import Change
from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, CachedVariant, LatentDataset, track_changes
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


def with_variants(root: Path, lengths: list[int], *, tempo: float = 1.1, **options: int) -> LatentDataset:
    """Each track with two copies of other lengths, whose latents are negative ramps."""
    dataset, cache = make(root, lengths, **options), LatentCache(root)
    tracks = []
    for index, track in enumerate(dataset.tracks):
        variants = []
        for number in (1, 2):
            frames = round(track.frames / tempo) - number
            latents = cache.path("latents", index=index, number=number, tempo=tempo)
            cache.store(latents, {"latents": -torch.arange(1.0, frames + 1).expand(8, 16, -1)})
            variants.append(CachedVariant(Change(number, tempo), f"copy {number}", frames, latents, track.conditioning))
        tracks.append(replace(track, variants=tuple(variants)))
    return replace(dataset, tracks=tuple(tracks))


def test_the_copy_that_is_heard_depends_on_seed_epoch_and_index_and_each_is_as_likely(tmp_path: Path):
    dataset = with_variants(tmp_path, [500, 300])
    heard = [[dataset.at_epoch(epoch).heard(index).prompt for index in (0, 1)] for epoch in range(300)]
    assert heard == [[dataset.at_epoch(epoch).heard(index).prompt for index in (0, 1)] for epoch in range(300)]
    for index in (0, 1):
        drawn = [row[index] for row in heard]
        assert set(drawn) == {f"track {index}", "copy 1", "copy 2"}
        assert min(drawn.count(prompt) for prompt in set(drawn)) > 70
    assert any(first.startswith("copy") != second.startswith("copy") for first, second in heard)


def test_a_window_fits_the_copy_that_the_epoch_hears(tmp_path: Path):
    dataset = with_variants(tmp_path, [30, 500], crop=28)
    lengths = set()
    for epoch in range(20):
        now = dataset.at_epoch(epoch)
        assert now.windows() == tuple(now[index].latents.shape[-1] for index in (0, 1))
        lengths.add(now.window(0))
        assert (float(now[0].latents.min()) < 0) == isinstance(now.heard(0), CachedVariant)
    assert lengths == {28, 26, 25}


def test_what_is_held_out_is_heard_as_it_was_recorded_on_the_side_it_was_on(tmp_path: Path):
    plain, varied = make(tmp_path / "a", [30] * 30), with_variants(tmp_path / "b", [30] * 30)
    training, held_out = varied.split(0.3)
    assert held_out is not None
    assert names(held_out) == names(plain.split(0.3)[1])
    assert not any(track.variants for track in held_out.tracks)
    assert all(track.variants for track in training.tracks)


def test_a_digest_tells_datasets_apart_and_not_where_or_when_they_are_read(tmp_path: Path):
    dataset = with_variants(tmp_path / "here", [30, 40])
    first, second = dataset.tracks
    assert with_variants(tmp_path / "there", [30, 40]).at_epoch(7).sha256 == dataset.sha256
    assert replace(dataset, tracks=(replace(first, name="other.wav"), second)).sha256 == dataset.sha256
    others = [
        with_variants(tmp_path / "c", [30, 41]),
        with_variants(tmp_path / "d", [30, 40], tempo=1.05),
        with_variants(tmp_path / "e", [30, 40], crop=21),
        with_variants(tmp_path / "f", [30, 40], seed=1),
        make(tmp_path / "g", [30, 40]),
        replace(dataset, tracks=(second, first)),
        replace(dataset, tracks=(first,)),
        replace(dataset, tracks=(replace(first, content="other"), second)),
        replace(dataset, tracks=(replace(first, conditioning=Path("b.safetensors")), second)),
    ]
    assert len({other.sha256 for other in others} | {dataset.sha256}) == len(others) + 1


def test_tracks_that_differ_are_named(tmp_path: Path):
    before = make(tmp_path, [30] * 3).track_digests()
    after = {**{name: digest for name, digest in before.items() if name != "0.wav"}, "1.wav": "other", "9.wav": "new"}
    assert track_changes(before, after) == ("added: 9.wav", "removed: 0.wav", "changed: 1.wav")
    assert track_changes(before, before) == ()
    many = {f"{number}.wav": "" for number in range(10, 20)}
    assert track_changes({}, many) == ("added: 10.wav, 11.wav, 12.wav, 13.wav, 14.wav and 5 more",)


def test_an_entry_damaged_after_preparation_is_an_error_that_names_the_track(tmp_path: Path):
    dataset = make(tmp_path, [30])
    dataset.tracks[0].latents.write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"0\.wav .* prepare the dataset again"):
        dataset[0]
