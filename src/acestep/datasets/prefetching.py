"""The next items made in a background thread while the present one is used; at most depth + 1 of them are held."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from acestep.errors import InputError

T = TypeVar("T")


def prefetch(items: Iterable[T], depth: int = 2) -> Prefetched[T]:
    """Iterate `items` in a thread, up to `depth` of them ahead. Use it in a `with` block, or close it:

        with prefetch(batches) as ready:
            for batch in ready: ...

    Order is kept; an error of `items` arrives where its item would have come. depth: at least 1.
    """
    if depth < 1:
        raise InputError(f"a depth of {depth} prefetches nothing; expected at least 1")
    return Prefetched(items, depth)


class Prefetched(Iterator[T], Generic[T]):
    """Items in their order. `waited_s`: how long the consumer has waited for items so far."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self.waited_s = 0.0
        self._shelf: _Shelf[T] = _Shelf(depth)
        # The thread knows the shelf alone, so that a forgotten iterator is collected and stops it.
        self._thread = threading.Thread(target=_fill, args=(items, self._shelf), name="prefetch", daemon=True)
        self._thread.start()

    def __next__(self) -> T:
        began = time.monotonic()
        try:
            return self._shelf.take()
        finally:
            self.waited_s += time.monotonic() - began

    def close(self) -> None:
        """Stop the thread, after the item it is at, and drop what was ready. May be called twice."""
        self._shelf.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Prefetched[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._shelf.close()


class _Shelf(Generic[T]):
    """Where the thread lays items down and the consumer takes them."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.finished = self.closed = False
        self.changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Wait for room and lay it down; False where nobody takes any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or len(self.items) < self.depth)
            if not self.closed:
                self.items.append(item)
                self.changed.notify_all()
            return not self.closed

    def take(self) -> T:
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.finished or self.closed)
            if self.items:
                item = self.items.popleft()
                self.changed.notify_all()
                return item
            error, self.error = self.error, None
        if error is not None:
            raise error
        raise StopIteration

    def finish(self, error: BaseException | None) -> None:
        with self.changed:
            self.finished, self.error = True, None if self.closed else error
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.error = None
            self.items.clear()
            self.changed.notify_all()


def _fill(items: Iterable[T], shelf: _Shelf[T]) -> None:
    error: BaseException | None = None
    try:
        # In the thread to its end, so that a generator's own clean-up runs where it ran.
        source = iter(items)
        try:
            for item in source:
                if not shelf.put(item):
                    break
        finally:
            if close := getattr(source, "close", None):
                close()
    except BaseException as caught:  # whatever it is, it belongs to the consumer
        error = caught
    shelf.finish(error)
