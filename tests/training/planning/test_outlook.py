from pathlib import Path

import pytest

from acestep.datasets import prepare_dataset
from acestep.datasets.augmentation import Augmentation
from acestep.datasets.folder import read_dataset_folder
from acestep.datasets.latent_cache import LatentCache
from acestep.training.config import AugmentationSection, DataSection, LoopSection, SampleSection, TrainingConfig
from acestep.training.plan import TrainingPlan
from acestep.training.planning.outlook import extent_of_dataset, extent_of_folder, run_shape, step_settings
from small_family import SmallFamily, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), tracks=5, duration_s=3.0)


def test_a_folder_is_foretold_to_be_what_its_dataset_then_is(data: Path, tmp_path: Path):
    family = SmallFamily()
    dataset = prepare_dataset(
        data, family, max_duration_s=2.0, cache_dir=tmp_path, augmentation=Augmentation(variants=0)
    )
    known = extent_of_dataset(dataset, family, 0.2)
    foretold = extent_of_folder(read_dataset_folder(data), family, max_duration_s=2.0, held_out=0.2)
    assert foretold.tracks + foretold.held_out == known.tracks + known.held_out == 5
    assert foretold.frames == known.frames == family.latent_frames(2.0)
    assert foretold.audio_s == pytest.approx(known.audio_s, rel=0.05)
    assert foretold.example.text_states.shape == known.example.text_states.shape
    assert (foretold.to_encode_s, known.to_encode_s) == (15.0, 0.0)


@pytest.mark.parametrize(("share", "apart"), [(0.0, 0), (0.01, 1), (0.4, 2), (0.99, 4)])
def test_one_track_at_least_is_left_to_train_on(data: Path, share: float, apart: int):
    extent = extent_of_folder(read_dataset_folder(data), SmallFamily(), max_duration_s=2.0, held_out=share)
    assert (extent.tracks, extent.held_out) == (5 - apart, apart)


def test_a_run_has_the_steps_looks_and_songs_that_the_trainer_makes(data: Path, tmp_path: Path):
    config = TrainingConfig(
        training=LoopSection(epochs=10, batch_size=2, gradient_accumulation=1, validate_every=2),
        data=DataSection(validation_split=0.2, augmentation=AugmentationSection(variants=3)),
        samples=SampleSection(every_epochs=5, seeds=(0, 1)),
    )
    extent = extent_of_folder(read_dataset_folder(data), SmallFamily(), max_duration_s=2.0, held_out=0.2)
    shape = run_shape(config, extent, LatentCache(tmp_path))
    plan = TrainingPlan(tracks=extent.tracks, examples_per_step=2, epochs=10, seed=0)
    assert shape.steps == plan.total_steps == 20
    assert (shape.validations, shape.sample_rounds, shape.songs, shape.variants) == (6, 2, 4, 4)
    quiet = config.model_copy(
        update={
            "data": DataSection(augmentation=AugmentationSection(pitch_shift=False, time_stretch=False)),
            "samples": SampleSection(every_epochs=None),
        }
    )
    shape = run_shape(quiet, extent, LatentCache(tmp_path))
    assert (shape.variants, shape.sample_rounds, shape.songs) == (1, 0, 0)


def test_accumulation_is_counted_no_larger_than_the_dataset(data: Path):
    config = TrainingConfig(training=LoopSection(batch_size=2, gradient_accumulation=50))
    extent = extent_of_folder(read_dataset_folder(data), SmallFamily(), max_duration_s=2.0, held_out=0.2)
    assert step_settings(config, ("x",), {}, extent).accumulation == 2
