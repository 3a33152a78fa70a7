"""Many small computations, one after the other: torch's own threads are no help with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in one thread in this block.

    Threads that wait for each other spin, and have little to do in a product of a few columns: on a busy machine with
    two cores a merge took 240 s with them, of which 78 of computing, and 4 without.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
