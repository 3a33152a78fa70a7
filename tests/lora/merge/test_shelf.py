from __future__ import annotations

import pytest
import torch

from acestep.lora.low_rank import decompose
from acestep.lora.merge.shelf import Shelf


def test_what_is_kept_is_the_same_in_float32_and_lies_in_common_memory():
    shelf = Shelf()
    changes = [decompose(torch.randn(6, 3), torch.randn(3, 5)).cut(2) for _ in range(4)]
    kept = [shelf.keep(change) for change in changes]
    for one, other in zip(changes, kept, strict=True):
        assert (other.rank, other.energy) == (2, one.energy)
        for name in ("left", "values", "right"):
            assert torch.equal(getattr(one, name).float(), getattr(other, name))
    assert len({change.left.untyped_storage().data_ptr() for change in kept}) == 1


def test_what_is_larger_than_a_chunk_gets_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("acestep.lora.merge.shelf._CHUNK", 70)
    shelf = Shelf()
    large = decompose(torch.randn(50, 5), torch.randn(5, 5))
    small = decompose(torch.randn(6, 3), torch.randn(3, 5))
    kept = [shelf.keep(change) for change in (small, large, small)]
    assert torch.equal(kept[1].left, large.left.float())
    assert torch.equal(kept[0].left, kept[2].left)
