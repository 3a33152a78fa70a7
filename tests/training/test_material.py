from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
import torch

from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import CachedTrack, LatentDataset
from acestep.families.base import TrainingNoise
from acestep.training.material import Material, MaterialSource
from acestep.training.plan import TrainingPlan
from acestep.training.processes import Processes
from small_family import SmallFamily

LENGTHS = (12, 12, 9, 12, 9)


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    cache = LatentCache(tmp_path_factory.mktemp("cache"))
    conditioning = cache.path("conditioning", of="all")
    cache.store(conditioning, SmallFamily().encode_prompt(["a song"], [""]).tensors())
    return LatentDataset(tuple(cached(cache, index, conditioning) for index in range(len(LENGTHS))), crop_frames=12)


def cached(cache: LatentCache, index: int, conditioning: Path) -> CachedTrack:
    latents = cache.path("latents", index=index)
    cache.store(latents, {"latents": torch.full((8, 16, LENGTHS[index]), float(index))})
    return CachedTrack(f"{index}.wav", f"content {index}", "a song", LENGTHS[index], latents, conditioning)


class OneOf(Processes):
    def __init__(self, rank: int, count: int, *, shards_base: bool = False) -> None:
        self.rank, self.count, self.shards_base = rank, count, shards_base


def steps_of(
    tracks: LatentDataset, processes: Processes, *, step: int = 0, batches_done: int = 0, batch_size: int = 2
) -> list[list[Material]]:
    """A process's batches of each step."""
    plan = TrainingPlan(tracks=len(tracks), examples_per_step=4, epochs=2, seed=0)
    source = MaterialSource(tracks, plan, TrainingNoise(), "logit_normal", processes)
    found: list[list[Material]] = [[]]
    for material in source.materials(step, batches_done, batch_size):
        if material is not None:
            found[-1].append(material)
        if material is None or material.last:
            found.append([])
    assert found.pop() == []
    return found


def examples(materials: list[Material]) -> Counter[int]:
    return Counter(index for material in materials for index in material.indices if material.weight)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("shards_base", [False, True])
def test_the_processes_together_do_each_example_of_a_step_once(tracks: LatentDataset, count: int, shards_base: bool):
    alone = steps_of(tracks, Processes())
    shares = [steps_of(tracks, OneOf(rank, count, shards_base=shards_base)) for rank in range(count)]
    for step, whole in enumerate(alone):
        parts = [materials for share in shares for materials in share[step]]
        assert examples(parts) == examples(whole)
        assert sum(material.weight * len(material.indices) for material in parts) == pytest.approx(1)


def test_processes_that_hold_the_base_in_parts_pass_through_it_equally_often(tracks: LatentDataset):
    shares = [steps_of(tracks, OneOf(rank, 3, shards_base=True), batch_size=4) for rank in range(3)]
    assert all(len({len(share[step]) for share in shares}) == 1 for step in range(len(shares[0])))


def test_an_examples_window_and_numbers_are_the_same_in_batches_of_any_size(tracks: LatentDataset):
    def by_example(batch_size: int) -> dict[tuple[int, int], tuple[torch.Tensor, ...]]:
        return {
            (material.step, index): (material.batch.latents[row], material.draws.noise[row], material.draws.sigmas[row])
            for materials in steps_of(tracks, Processes(), batch_size=batch_size)
            for material in materials
            for row, index in enumerate(material.indices)
        }

    single, wide = by_example(1), by_example(4)
    assert single.keys() == wide.keys()
    assert all(torch.equal(a, b) for key in single for a, b in zip(single[key], wide[key], strict=True))


def test_a_step_goes_on_after_the_batches_that_are_done(tracks: LatentDataset):
    whole = steps_of(tracks, Processes(), batch_size=1)
    rest = steps_of(tracks, Processes(), step=1, batches_done=0, batch_size=1)
    assert [[material.indices for material in step] for step in rest] == [
        [material.indices for material in step] for step in whole[1:]
    ]
    middle = steps_of(tracks, Processes(), batches_done=3, batch_size=1)
    assert [material.indices for material in middle[0]] == [material.indices for material in whole[0][3:]]


def test_every_batch_has_windows_of_one_length(tracks: LatentDataset):
    for materials in steps_of(tracks, Processes(), batch_size=4):
        for material in materials:
            assert len(list(groupby(LENGTHS[index] for index in material.indices))) == 1
