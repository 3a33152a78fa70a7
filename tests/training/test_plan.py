import pytest

from acestep.training.plan import TrainingPlan, batches_of_one_length


def plan(**changes: int | None) -> TrainingPlan:
    values = {"tracks": 10, "examples_per_step": 4, "epochs": 3, "seed": 0, **changes}
    return TrainingPlan(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("examples_per_step", [1, 3, 4, 10, 80])
def test_every_epoch_sees_every_track_once_in_its_own_order(examples_per_step: int):
    walk = plan(examples_per_step=examples_per_step)
    orders = []
    for epoch in range(walk.epochs):
        steps = [walk.examples(epoch * walk.steps_per_epoch + place) for place in range(walk.steps_per_epoch)]
        assert all(0 < len(step) <= examples_per_step for step in steps)
        orders.append([index for step in steps for index in step])
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_steps_are_counted_with_the_last_small_one_and_cut_at_the_maximum():
    assert plan().steps_per_epoch == 3
    assert plan().total_steps == 9
    assert plan(max_steps=4).total_steps == 4
    assert plan(max_steps=400).total_steps == 9
    assert [plan().epoch_of(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 9])
def test_batches_hold_every_example_once_and_windows_of_one_length(batch_size: int):
    windows = {4: 60, 1: 60, 7: 31, 2: 60, 9: 31, 0: 12}
    batches = batches_of_one_length(list(windows), windows.__getitem__, batch_size=batch_size)
    assert sorted(index for batch in batches for index in batch) == sorted(windows)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(len({windows[index] for index in batch}) == 1 for batch in batches)


def test_as_few_batches_are_made_as_lengths_allow():
    windows = [60, 60, 60, 31, 31, 60]
    assert len(batches_of_one_length(range(6), windows.__getitem__, batch_size=2)) == 3
