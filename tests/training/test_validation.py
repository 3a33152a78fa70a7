from pathlib import Path

import pytest

from acestep.datasets import LatentDataset, prepare_dataset
from acestep.training.validation import held_out_loss
from small_family import SmallFamily, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> LatentDataset:
    return prepare_dataset(write_dataset(tmp_path, tracks=3), SmallFamily(), max_duration_s=2)


def test_the_same_model_gets_the_same_loss_whatever_the_epoch(dataset: LatentDataset):
    family = SmallFamily()
    assert held_out_loss(family, dataset, seed=0) == held_out_loss(family, dataset.at_epoch(7), seed=0)
    assert held_out_loss(family, dataset, seed=0) != held_out_loss(family, dataset, seed=1)


def test_a_tracks_noise_does_not_depend_on_the_others(dataset: LatentDataset):
    family = SmallFamily()
    alone = LatentDataset(dataset.tracks[:1], dataset.crop_frames)
    name = dataset.tracks[0].name
    by_track = held_out_loss(family, dataset, seed=0).by_track
    assert held_out_loss(family, alone, seed=0).by_track[name] == by_track[name]
    assert held_out_loss(family, alone, seed=0).standard_error is None


def test_the_mean_is_over_tracks_with_its_standard_error(dataset: LatentDataset):
    loss = held_out_loss(SmallFamily(), dataset, seed=0)
    values = list(loss.by_track.values())
    mean = sum(values) / 3
    variance = sum((value - mean) ** 2 for value in values) / 2
    assert loss.mean == pytest.approx(mean)
    assert loss.standard_error == pytest.approx((variance / 3) ** 0.5)
