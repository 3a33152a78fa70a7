from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from acestep.training.planning.live_memory import LiveMemory


def test_a_tensor_counts_from_its_birth_to_its_end():
    with LiveMemory() as live:
        kept = torch.zeros(100)
        gone = torch.zeros(1000)
        assert live.bytes == 4400
        del gone
        assert (live.bytes, live.peak_bytes) == (400, 4400)
        assert kept.sum() == 0


def test_views_and_changes_in_place_take_nothing():
    with LiveMemory() as live:
        base = torch.zeros(64)
        view = base.view(8, 8).t()[2:]
        view.add_(1)
        assert live.bytes == 256


def test_what_was_there_before_counts_only_when_it_is_held():
    before = torch.zeros(10)
    live = LiveMemory()
    live.hold([before, before.view(2, 5)])
    with live:
        before.mul_(2)
    assert live.peak_bytes == 40


def test_views_of_what_is_overlooked_do_not_count():
    weight = torch.zeros(10, 20)
    live = LiveMemory()
    live.overlook([weight])
    with live:
        turned = weight.t()
    assert (turned.shape, live.peak_bytes) == ((20, 10), 0)


def test_fake_tensors_count_as_real_ones():
    def work() -> torch.Tensor:
        x = torch.ones(32, 16, requires_grad=True)
        return (x @ x.t()).relu().sum()

    peaks = []
    for mode in (FakeTensorMode(), torch.enable_grad()):
        with mode, LiveMemory() as live:
            work().backward()
        peaks.append(live.peak_bytes)
    assert peaks[0] == peaks[1] > 2 * 32 * 16 * 4


def test_the_highest_peak_is_told_by_kind_also_after_one_of_a_later_phase():
    weight = torch.zeros(50)
    live = LiveMemory(describe=True)
    assert live.hold([weight, weight.view(5, 10)], "weights") == 200
    with live:
        large = torch.zeros(1000)
        del large
        live.peak_bytes = live.bytes
        small = weight + 1
        assert small.sum() == 50
    assert 400 <= live.peak_bytes < 4200
    assert dict(live.at_peak) == {"weights": 200, "zeros [1000] torch.float32": 4000}
