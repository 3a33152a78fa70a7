import torch

from acestep.datasets.seeding import derive_seed, derive_share, derived_generator


def test_a_purpose_gives_one_seed_and_another_purpose_another():
    assert derive_seed(0, "crop", 3, 7) == derive_seed(0, "crop", 3, 7)
    seeds = {derive_seed(seed, what, epoch) for seed in range(5) for what in ("crop", "noise") for epoch in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_shares_fill_the_interval_evenly():
    shares = [derive_share("track", index) for index in range(4000)]
    assert min(shares) >= 0
    assert max(shares) <= 1
    quarters = [sum(low <= share < low + 0.25 for share in shares) for low in (0, 0.25, 0.5, 0.75)]
    assert all(abs(count - 1000) < 120 for count in quarters)


def test_numbers_that_touch_are_not_mistaken_for_each_other():
    assert derive_seed(1, "a", 11) != derive_seed(11, "a", 1)
    assert derive_seed("a", 1, 23) != derive_seed("a", 12, 3)


def test_two_generators_of_one_purpose_draw_alike():
    first, second = (torch.randn(4, generator=derived_generator(9, "noise")) for _ in range(2))
    assert torch.equal(first, second)
