import gc
import threading
from collections.abc import Iterator

import pytest

from acestep.datasets.prefetching import prefetch
from acestep.errors import InputError


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threads():
        thread.join(timeout=5)
    assert not threads()


def test_items_come_in_their_order_and_end():
    with prefetch(iter(range(100)), depth=3) as ready:
        assert list(ready) == list(range(100))
        assert next(ready, "end") == "end"


def test_items_are_made_in_another_thread_no_further_ahead_than_asked():
    made: list[int] = []
    makers = set()
    room = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for index in range(10):
            makers.add(threading.current_thread())
            made.append(index)
            if index == 3:
                room.release()
            yield index

    with prefetch(items(), depth=2) as ready:
        assert next(ready) == 0
        assert room.acquire(timeout=5)
        assert made == [0, 1, 2, 3]  # one taken, two ready, one in the hand
        assert list(ready) == list(range(1, 10))
    assert threading.current_thread() not in makers


def test_an_error_comes_after_the_items_before_it_as_itself():
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    with prefetch(items(), depth=5) as ready:
        assert [next(ready), next(ready)] == [1, 2]
        with pytest.raises(KeyError, match="third"):
            next(ready)
        assert next(ready, None) is None


def test_leaving_early_stops_the_thread_and_closes_the_source():
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ready = prefetch(endless(), depth=2)
    with pytest.raises(ZeroDivisionError), ready:
        1 / next(iter([0 * next(ready)]))
    assert closed.is_set()
    assert not threads()
    ready.close()
    assert next(ready, None) is None


def test_a_forgotten_iterator_stops_its_thread():
    ready = prefetch(iter(int, 1))
    next(ready)
    del ready
    gc.collect()
    for thread in threads():
        thread.join(timeout=5)
    assert not threads()


def test_waiting_is_counted():
    gate = threading.Event()

    def slow() -> Iterator[int]:
        gate.wait(5)
        yield 1

    with prefetch(slow()) as ready:
        assert ready.waited_s == 0
        threading.Timer(0.05, gate.set).start()
        next(ready)
        assert 0.01 < ready.waited_s < 5


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        prefetch([], depth=0)
