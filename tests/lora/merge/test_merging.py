"""A merge as a whole: files in, a folder out, and what it tells."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import acestep
from acestep.errors import AceStepError, AdapterError, CheckpointError, InputError
from acestep.lora import Adapter, AdapterMetadata, Factors, attach, module_shapes, read_adapter, write_adapter
from acestep.lora.bases import base_shapes
from acestep.lora.lineage import ancestors, lineage
from acestep.lora.merge import METHODS, MergeReport, merge_loras
from small_adapter import MODULES, nano_adapter
from small_disk import files_of_at_most
from small_family import SmallFamily

Q, CONV = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.inverted_conv.conv"


def write(folder: Path, *, seed: int = 1, dtype: torch.dtype = torch.float32, **metadata: Any) -> Path:
    adapter = nano_adapter(seed=seed, dtype=dtype)
    described = AdapterMetadata(**({"family": "nano"} | metadata))
    return write_adapter(folder, replace(adapter, metadata=described), dtype=dtype)


def deltas(path: Path) -> dict[str, Tensor]:
    factors = read_adapter(path, base_shapes("nano")).factors
    return {m: f.b.flatten(1).double() @ f.a.flatten(1).double() for m, f in factors.items()}


def assert_close(path: Path, expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    found = deltas(path)
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        assert float((found[module] - delta).abs().max()) <= tolerance * float(delta.abs().max()), module


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "vocal", seed=1), write(tmp_path / "ambient", seed=2)


def test_a_weighted_average_agrees_with_float64_algebra(pair: tuple[Path, Path], tmp_path: Path):
    one, other = pair
    report = acestep.merge_loras([(one, 1.4), (other, 0.6)], tmp_path / "merged")
    first, second = deltas(one), deltas(other)
    assert_close(tmp_path / "merged", {module: 0.7 * first[module] + 0.3 * second[module] for module in first})
    assert report.rank == 10  # 5 and 5, the largest of each
    assert report.energy_lost == 0


def test_the_network_with_the_merge_computes_the_exact_sum_at_runtime(tmp_path: Path):
    family = SmallFamily()
    shapes = module_shapes(family.network)
    generator = torch.Generator().manual_seed(0)
    adapters = []
    for name, rank in (("one", 2), ("other", 3)):
        factors = {
            module: Factors(
                0.2 * torch.randn(rank, *shape[1:], generator=generator),
                0.2 * torch.randn(shape[0], rank, *(1 for _ in shape[2:]), generator=generator),
            )
            for module, shape in list(shapes.items())[(0 if name == "one" else 3) :: 2]
        }
        adapters.append(write_adapter(tmp_path / name, Adapter(factors)))
    merge_loras([(adapters[0], 0.8), (adapters[1], -0.5)], tmp_path / "merged", strategy="task_arithmetic")

    conditioning = family.encode_prompt(["a slow song"], ["la la"])
    latents, sigmas = torch.randn(1, 8, 16, 20, generator=generator), torch.tensor([0.5])
    with torch.no_grad():
        bare = family.velocity(latents, sigmas, conditioning)
        attach(family.network, read_adapter(adapters[0], shapes), name="one", weight=0.8)
        attach(family.network, read_adapter(adapters[1], shapes), name="other", weight=-0.5)
        together = family.velocity(latents, sigmas, conditioning)
        merged_family = SmallFamily()
        attach(merged_family.network, read_adapter(tmp_path / "merged", shapes), name="merged")
        merged = merged_family.velocity(latents, sigmas, conditioning)
    assert float((together - bare).abs().max()) > 0.01
    torch.testing.assert_close(merged, together, rtol=1e-4, atol=1e-5)


def test_merging_an_adapter_with_itself_needs_no_higher_rank(pair: tuple[Path, Path], tmp_path: Path):
    one = pair[0]
    report = merge_loras([(one, 0.5), (one, 0.5)], tmp_path / "merged")
    assert_close(tmp_path / "merged", deltas(one))
    assert report.rank == read_adapter(one, base_shapes("nano")).rank
    assert report.kept == pytest.approx((1.0, 1.0), abs=1e-5)


def test_a_weight_of_zero_leaves_the_other_alone(pair: tuple[Path, Path], tmp_path: Path):
    merge_loras([(pair[0], 1.0), (pair[1], 0.0)], tmp_path / "merged")
    assert_close(tmp_path / "merged", deltas(pair[0]))


@pytest.mark.parametrize("strategy", METHODS)
def test_the_order_in_which_adapters_are_named_changes_nothing(pair: tuple[Path, Path], tmp_path: Path, strategy: str):
    given = [(pair[0], 0.7), (pair[1], 0.3)]
    merge_loras(given, tmp_path / "merged", strategy=strategy, rank=10)
    merge_loras(given[::-1], tmp_path / "turned", strategy=strategy, rank=10)
    assert_close(tmp_path / "turned", deltas(tmp_path / "merged"), 2e-5)


def test_random_methods_are_functions_of_the_seed(pair: tuple[Path, Path], tmp_path: Path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        merge_loras([(pair[0], 0.7), (pair[1], 0.3)], tmp_path / name, strategy="dare_linear", seed=seed, rank=10)
    one, again, other = (deltas(tmp_path / name) for name in ("one", "again", "other"))
    assert all(torch.equal(one[module], again[module]) for module in one)
    assert not torch.equal(one[Q], other[Q])


def test_modules_that_one_adapter_lacks_count_as_unchanged_by_it(tmp_path: Path):
    whole = nano_adapter()
    some = {module: whole.factors[module] for module in MODULES[:2]}
    one = write_adapter(tmp_path / "whole", whole)
    other = write_adapter(tmp_path / "some", Adapter(some))
    report = merge_loras([(one, 0.6), (other, 0.4)], tmp_path / "merged")
    expected = deltas(one)
    for module in MODULES[2:]:
        expected[module] = 0.6 * expected[module]
    assert_close(tmp_path / "merged", expected)
    kept = {module.module: module.kept for module in report.modules}
    assert kept[MODULES[0]] == pytest.approx((1.0, 1.0), abs=1e-5)
    assert kept[MODULES[3]][1] is None
    # Disjoint means have nothing to share it with: the one voice is heard whole.
    merge_loras([(one, 0.6), (other, 0.4)], tmp_path / "ties", strategy="ties", density=1.0, rank="full")
    assert_close(tmp_path / "ties", deltas(one), 1e-5)


def test_a_cut_is_the_best_of_its_rank_and_says_what_it_cost(pair: tuple[Path, Path], tmp_path: Path):
    report = merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "merged", rank=3)
    one, other, found = deltas(pair[0]), deltas(pair[1]), deltas(tmp_path / "merged")
    for module in report.modules:
        exact = 0.5 * (one[module.module] + other[module.module])
        values = torch.linalg.svdvals(exact)
        lost = float(values[3:].square().sum() / values.square().sum())
        assert module.energy_lost == pytest.approx(lost, abs=1e-6)
        missing = exact - found[module.module]
        assert float(missing.square().sum() / exact.square().sum()) == pytest.approx(lost, abs=1e-6)
        assert module.rank == 3
        assert module.norm == pytest.approx(float(found[module.module].norm()), rel=1e-5)
    assert report.worst.energy_lost >= report.energy_lost > 0


def test_auto_is_the_smallest_rank_with_which_every_module_keeps_its_energy(pair: tuple[Path, Path], tmp_path: Path):
    given = [(pair[0], 1.0), (pair[1], 0.02)]
    auto = merge_loras(given, tmp_path / "auto", strategy="task_arithmetic", rank="auto")
    assert max(module.energy_lost for module in auto.modules) <= 0.01
    below = merge_loras(given, tmp_path / "below", strategy="task_arithmetic", rank=auto.rank - 1)
    assert max(module.energy_lost for module in below.modules) > 0.01
    assert auto.rank < 10


def test_dense_methods_reach_their_own_result_at_full_rank(pair: tuple[Path, Path], tmp_path: Path):
    full = merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "full", strategy="ties", rank="full", density=0.5)
    cut = merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "cut", strategy="ties", rank=8, density=0.5)
    whole, less = deltas(tmp_path / "full"), deltas(tmp_path / "cut")
    assert full.energy_lost < 1e-5
    for module in cut.modules:
        exact = whole[module.module]
        error = float((exact - less[module.module]).square().sum() / exact.square().sum())
        assert module.energy_lost == pytest.approx(error, abs=1e-5)


def test_a_rank_beyond_all_reason_is_only_as_large_as_needed(pair: tuple[Path, Path], tmp_path: Path):
    assert merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "merged", rank=10**12).rank == 10


def test_weights_of_groups_replace_the_adapters_own_there(pair: tuple[Path, Path], tmp_path: Path):
    merge_loras(
        [(pair[0], 0.5), (pair[1], 0.5)],
        tmp_path / "merged",
        group_weights={"self_attention": (0.9, 0.1), "first_third": (1.0, 0.0), "feed_forward": (0.0, 1.0)},
    )
    one, other = deltas(pair[0]), deltas(pair[1])
    block = "transformer_blocks.0"
    expected = {
        f"{block}.attn.to_q": one[f"{block}.attn.to_q"],
        f"{block}.cross_attn.to_out.0": one[f"{block}.cross_attn.to_out.0"],
        f"{block}.ff.inverted_conv.conv": other[f"{block}.ff.inverted_conv.conv"],
        "speaker_embedder": 0.5 * (one["speaker_embedder"] + other["speaker_embedder"]),
    }
    assert_close(tmp_path / "merged", expected)


@pytest.mark.parametrize("strategy", ["task_arithmetic", "ties", "iso_c"])
def test_a_group_can_be_left_out(pair: tuple[Path, Path], tmp_path: Path, strategy: str):
    groups = {"feed_forward": (0, 0)}
    merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "m", strategy=strategy, rank=4, group_weights=groups)
    assert deltas(tmp_path / "m").keys() == set(MODULES) - {CONV}


def test_the_widest_dtype_is_kept_unless_another_is_asked_for(tmp_path: Path):
    half, brain = write(tmp_path / "half", dtype=torch.float16), write(tmp_path / "brain", dtype=torch.bfloat16, seed=2)
    given = [(half, 0.5), (half, 0.25)]
    assert merge_loras(given, tmp_path / "a").dtype == torch.float16
    assert merge_loras([(half, 0.5), (brain, 0.5)], tmp_path / "b").dtype == torch.float32
    assert merge_loras([(half, 0.5), (brain, 0.5)], tmp_path / "c", dtype="bfloat16").dtype == torch.bfloat16
    stored = load_file(tmp_path / "c" / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    with pytest.raises(InputError, match="int8 is no dtype"):
        merge_loras(given, tmp_path / "d", dtype="int8")


def test_lineage_is_kept_through_merges_of_merges(pair: tuple[Path, Path], tmp_path: Path):
    merge_loras([(pair[0], 0.7), (pair[1], 0.3)], tmp_path / "both", strategy="ties", rank=4)
    merge_loras([(tmp_path / "both", 1.0), (pair[0], -0.2)], tmp_path / "again", strategy="task_arithmetic")
    tree = lineage(tmp_path / "again")
    assert (tree.name, tree.method) == ("again", "task_arithmetic")
    assert [(parent.name, parent.weight) for parent in tree.parents] == [("both", 1.0), ("vocal", -0.2)]
    both = tree.parents[0]
    assert both.method == "ties"
    assert both.options == {"density": 0.2, "scale": 1.0, "rank": 4}
    assert [(parent.name, parent.weight, parent.method) for parent in both.parents] == [
        ("vocal", 0.7, "trained"),
        ("ambient", 0.3, "trained"),
    ]
    assert both.parents[0].sha256 == tree.parents[1].sha256 == lineage(pair[0]).sha256
    assert len(list(ancestors(tree))) == 4


def test_the_report_is_json(pair: tuple[Path, Path], tmp_path: Path):
    import json

    report = merge_loras([(pair[0], 0.7), (pair[1], 0.3)], tmp_path / "merged", measure=True)
    assert isinstance(report, MergeReport)
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [source["name"] for source in told["sources"]] == ["vocal", "ambient"]
    assert len(told["modules"]) == len(MODULES)
    assert len(told["interference"]["pairs"]) == 1


def test_progress_is_told_module_by_module(pair: tuple[Path, Path], tmp_path: Path):
    heard: list[tuple[int, int]] = []
    merge_loras(
        [(pair[0], 0.7), (pair[1], 0.3)], tmp_path / "m", progress=lambda done, all_: heard.append((done, all_))
    )
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


# What must be refused, each with nothing written.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"strategy": "average"}, InputError, "choose one of weighted_average"),
        ({"weights": (0.5, -0.5)}, InputError, "sum to zero"),
        ({"weights": (0.0, 0.0), "strategy": "ties"}, InputError, "all weights are 0"),
        ({"weights": (math.nan, 1.0)}, InputError, "no number up to"),
        ({"weights": (math.inf, 1.0)}, InputError, "no number up to"),
        ({"weights": ("a", 1.0)}, InputError, "no number up to"),
        ({"weights": (1e300, 1.0)}, InputError, "no number up to"),
        ({"weights": (1e-300, 1e-300), "strategy": "task_arithmetic"}, AdapterError, "changes nothing"),
        ({"strategy": "ties", "scale": 1e300}, InputError, "scale is 1e[+]300"),
        ({"rank": 0}, InputError, "rank is 0"),
        ({"rank": True}, InputError, "rank is True"),
        ({"rank": "all"}, InputError, "rank is 'all'"),
        ({"density": 0.5}, InputError, "no option density"),
        ({"strategy": "slerp", "weights": (1.5, -0.5)}, InputError, "slerp goes between"),
        ({"group_weights": {"attention": (1, 0)}}, InputError, "no group 'attention'; choose from self_attention"),
        ({"group_weights": {"self_attention": (1,)}}, InputError, "needs 2 weights"),
        ({"group_weights": {"self_attention": 1.0}}, InputError, "needs 2 weights"),
        ({"group_weights": {"self_attention": None}}, InputError, "needs 2 weights"),
        ({"group_weights": [(1, 0)]}, InputError, "write {'cross_attention'"),
        ({"group_weights": {"self_attention": (1, -1)}}, InputError, "sum to zero"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], error: type[AceStepError], message: str
):
    weights = change.pop("weights", (0.7, 0.3))
    with pytest.raises(error, match=message):
        merge_loras(list(zip(pair, weights, strict=True)), tmp_path / "merged", **change)
    assert not (tmp_path / "merged").exists()


def test_one_adapter_alone_is_refused_where_its_weight_would_mean_nothing(pair: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(InputError, match="needs at least 2 adapters, found 1; task_arithmetic changes the strength"):
        merge_loras([(pair[0], 0.7)], tmp_path / "merged")
    with pytest.raises(InputError, match="slerp needs exactly 2 adapters, found 3"):
        merge_loras([(pair[0], 0.7)] * 3, tmp_path / "merged", strategy="slerp")
    with pytest.raises(InputError, match="needs at least 2 adapters, found 0"):
        merge_loras([], tmp_path / "merged")
    merge_loras([(pair[0], 0.7)], tmp_path / "merged", strategy="task_arithmetic")
    assert_close(tmp_path / "merged", {module: 0.7 * delta for module, delta in deltas(pair[0]).items()})


def test_what_is_no_pair_is_refused(pair: tuple[Path, Path], tmp_path: Path):
    for given in ([str(pair[0]), str(pair[1])], [1, 2], [(1, 0.5), (2, 0.5)]):
        with pytest.raises(InputError, match="no adapter with a weight"):
            merge_loras(given, tmp_path / "merged")  # type: ignore[arg-type]


def test_equal_merges_are_equal_files(pair: tuple[Path, Path], tmp_path: Path):
    reports = [
        merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / name / "merged", strategy="dare_ties", rank=3)
        for name in ("one", "other")
    ]
    files = [{path.name: path.read_bytes() for path in report.path.iterdir()} for report in reports]
    assert files[0] == files[1]


def test_results_of_runs_are_called_as_their_runs_and_equal_names_are_numbered(tmp_path: Path):
    paths = [write(tmp_path / place, seed=seed) for seed, place in enumerate(("one/adapter", "other/adapter", "a/one"))]
    report = merge_loras([(path, 1.0) for path in paths], tmp_path / "merged")
    assert [parent.name for parent in report.sources] == ["one", "other", "one (2)"]


def test_an_output_path_that_exists_is_left_alone(pair: tuple[Path, Path], tmp_path: Path):
    given = [(pair[0], 0.5), (pair[1], 0.5)]
    merge_loras(given, tmp_path / "merged")
    before = (tmp_path / "merged" / "README.md").read_text()
    with pytest.raises(InputError, match="is there already"):
        merge_loras(given, tmp_path / "merged", rank=2)
    assert (tmp_path / "merged" / "README.md").read_text() == before
    assert merge_loras(given, tmp_path / "merged", rank=2, overwrite=True).rank == 2
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "song.txt").write_text("mine")
    with pytest.raises(AdapterError, match="no adapter"):
        merge_loras(given, songs, overwrite=True)
    assert (songs / "song.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        merge_loras(given, songs / "song.txt", overwrite=True)
    with pytest.raises(InputError, match="a file's name"):
        merge_loras(given, tmp_path / "merged.safetensors")


def test_a_parent_can_be_replaced_by_the_merge(pair: tuple[Path, Path], tmp_path: Path):
    expected = {module: 0.5 * (delta + deltas(pair[1])[module]) for module, delta in deltas(pair[0]).items()}
    merge_loras([(pair[0], 0.5), (pair[1], 0.5)], pair[0], overwrite=True)
    assert_close(pair[0], expected)


def test_adapters_for_different_bases_are_refused_by_name(tmp_path: Path):
    small = write(tmp_path / "small")
    shape = base_shapes("v1")["transformer_blocks.0.attn.to_q"]
    large = write_adapter(
        tmp_path / "large",
        Adapter({"transformer_blocks.0.attn.to_q": Factors(torch.ones(1, shape[1]), torch.ones(shape[0], 1))}),
    )
    with pytest.raises(AdapterError, match=r"different bases: .*small \(nano\), .*large \(v1\)"):
        merge_loras([(small, 0.5), (large, 0.5)], tmp_path / "merged")
    other = write(tmp_path / "other", family="v1.5")
    with pytest.raises(AdapterError, match=r"different families: small \(nano\), other \(v1.5\)"):
        merge_loras([(small, 0.5), (other, 0.5)], tmp_path / "merged")


def test_shapes_that_differ_on_an_unknown_base_are_refused(tmp_path: Path):
    one = write_adapter(tmp_path / "one", Adapter({"layer": Factors(torch.ones(1, 3), torch.ones(4, 1))}))
    other = write_adapter(tmp_path / "other", Adapter({"layer": Factors(torch.ones(1, 5), torch.ones(4, 1))}))
    with pytest.raises(AdapterError, match=r"layer is \[4, 3\] in one and \[4, 5\] in other"):
        merge_loras([(one, 0.5), (other, 0.5)], tmp_path / "merged")


def test_different_fingerprints_of_one_family_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    one = write(tmp_path / "one", base_fingerprint="a" * 64)
    other = write(tmp_path / "other", base_fingerprint="b" * 64, seed=2)
    with caplog.at_level(logging.WARNING):
        report = merge_loras([(one, 0.5), (other, 0.5)], tmp_path / "merged")
    assert "different weights of one family" in caplog.text
    assert report.warnings
    assert read_adapter(tmp_path / "merged", base_shapes("nano")).metadata.base_fingerprint is None


def test_a_dora_is_refused_with_what_to_do(tmp_path: Path, pair: tuple[Path, Path]):
    dora = write_adapter(tmp_path / "dora", nano_adapter(dora=True))
    with pytest.raises(AdapterError, match=r"dora is a DoRA.*acestep lora bake"):
        merge_loras([(dora, 0.5), (pair[0], 0.5)], tmp_path / "merged")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, pair: tuple[Path, Path]):
    broken = nano_adapter()
    broken.factors[Q].b[0, 0] = math.nan
    path = write_adapter(tmp_path / "broken", broken)
    with pytest.raises(CheckpointError, match="not finite"):
        merge_loras([(path, 0.5), (pair[0], 0.5)], tmp_path / "merged")


def test_numbers_that_the_dtype_cannot_hold_are_refused(tmp_path: Path):
    quiet = nano_adapter()
    loud = write_adapter(
        tmp_path / "loud", replace(quiet, factors={name: own.scaled(1e6) for name, own in quiet.factors.items()})
    )
    with pytest.raises(AdapterError, match="too large for float16"):
        merge_loras([(loud, 1e6)], tmp_path / "merged", strategy="task_arithmetic", dtype="float16")
    assert not (tmp_path / "merged").exists()


def test_adapters_that_cancel_out_leave_nothing_to_write(tmp_path: Path, pair: tuple[Path, Path]):
    with pytest.raises(AdapterError, match="changes nothing"):
        merge_loras([(pair[0], 1.0), (pair[0], -1.0)], tmp_path / "merged", strategy="task_arithmetic")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, pair: tuple[Path, Path]):
    with files_of_at_most(5000), pytest.raises(CheckpointError, match="could not be written"):
        merge_loras([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ambient", "vocal"]
    with pytest.raises(InputError, match="nothing can be written"):
        merge_loras([(pair[0], 0.5), (pair[1], 0.5)], pair[0] / "README.md" / "merged")


def test_missing_adapters_are_named(tmp_path: Path, pair: tuple[Path, Path]):
    with pytest.raises(AceStepError, match="nowhere"):
        merge_loras([(pair[0], 0.5), (tmp_path / "nowhere", 0.5)], tmp_path / "merged")


def test_unicode_names_are_kept(tmp_path: Path, pair: tuple[Path, Path]):
    other = write(tmp_path / "Stimme: süß 🎤", seed=3)
    merge_loras([(pair[0], 0.5), (other, 0.5)], tmp_path / "zusammen ✨")
    assert [parent.name for parent in lineage(tmp_path / "zusammen ✨").parents] == ["vocal", "Stimme: süß 🎤"]
