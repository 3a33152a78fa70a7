import pytest

from acestep.errors import AdapterError
from acestep.lora.targets import find_ranks, find_targets

MODULES = ["blocks.0.attn.to_q", "blocks.0.attn.to_out.0", "blocks.0.ff.point_conv.conv", "blocks.10.attn.to_q"]
ALIASES = {"q_proj": ("to_q", "linear_q"), "fc2": ("ff.point_conv.conv",)}


def test_aliases_and_own_names_find_the_same_modules_in_the_models_order():
    found = ["blocks.0.attn.to_q", "blocks.10.attn.to_q"]
    assert find_targets(MODULES, ["q_proj"], ALIASES) == found
    assert find_targets(MODULES, ["to_q"], ALIASES) == found
    assert find_targets(MODULES, ["fc2", "q_proj"], ALIASES) == [found[0], MODULES[2], found[1]]


def test_a_whole_name_chooses_one_module():
    assert find_targets(MODULES, ["blocks.0.attn.to_q"]) == ["blocks.0.attn.to_q"]


def test_a_part_of_a_name_chooses_nothing():
    with pytest.raises(AdapterError):
        find_targets(MODULES, ["o_q"])


def test_what_matches_nothing_is_named_with_what_there_is():
    with pytest.raises(AdapterError) as error:
        find_targets(MODULES, ["q_prj", "to_q", "zzz"], ALIASES)
    message = str(error.value)
    assert "q_prj (did you mean q_proj?)" in message
    assert "zzz" in message
    assert "there are: q_proj, fc2, point_conv.conv, to_out.0, to_q" in message


def test_rank_patterns_are_parts_of_names_wherever_they_stand_and_the_last_written_decides():
    modules = ["blocks.0.attn.to_q", "blocks.0.cross_attn.to_q", "blocks.0.cross_attn.to_out.0", "blocks.1.attn.to_q"]
    assert find_ranks(modules, {"to_q": 64, "cross_attn": 16, "blocks.1": 8}) == dict(
        zip(modules, (64, 16, 16, 8), strict=True)
    )
    assert find_ranks(modules, {"cross_attn": 16, "q_proj": 64}, ALIASES) == dict(
        zip(modules, (64, 64, 16, 64), strict=True)
    )
    assert find_ranks(modules, {"blocks.*.attn": 4}) == {modules[0]: 4, modules[3]: 4}
    assert find_ranks(modules, {"to_out.0": 2, "0.attn": 3}) == {modules[2]: 2, modules[0]: 3}


@pytest.mark.parametrize("pattern", ["o_q", "attn.blocks", "blocks.3", "", "attn.to_q.extra", "[a"])
def test_a_rank_pattern_that_matches_nothing_is_named(pattern: str):
    with pytest.raises(AdapterError, match="no adapted module matches") as error:
        find_ranks(MODULES, {"to_q": 4, pattern: 8})
    assert pattern in str(error.value)
