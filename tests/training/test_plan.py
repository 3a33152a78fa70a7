import pytest

from acestep.training.plan import TrainingPlan


def plan(**changes: int | None) -> TrainingPlan:
    values = {"tracks": 10, "batch_size": 2, "accumulation": 2, "epochs": 3, "seed": 0, **changes}
    return TrainingPlan(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (2, 2), (3, 2), (1, 8), (20, 4)])
def test_every_epoch_sees_every_track_once_in_its_own_order(batch_size: int, accumulation: int):
    walk = plan(batch_size=batch_size, accumulation=accumulation)
    orders = []
    for epoch in range(walk.epochs):
        steps = [walk.step(epoch * walk.steps_per_epoch + place) for place in range(walk.steps_per_epoch)]
        assert all(len(step) <= accumulation for step in steps)
        assert all(len(batch) <= batch_size for step in steps for batch in step)
        orders.append([index for step in steps for batch in step for index in batch])
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_accumulated_batches_hold_the_tracks_of_the_large_batch():
    small, large = plan(batch_size=1, accumulation=4), plan(batch_size=4, accumulation=1)
    for step in range(small.total_steps):
        assert [index for batch in small.step(step) for index in batch] == list(large.step(step)[0])


def test_steps_are_counted_with_the_last_small_one_and_cut_at_the_maximum():
    assert plan().steps_per_epoch == 3
    assert plan().total_steps == 9
    assert plan(max_steps=4).total_steps == 4
    assert plan(max_steps=400).total_steps == 9
    assert [plan().epoch_of(step) for step in (0, 2, 3, 8)] == [0, 0, 1, 2]
