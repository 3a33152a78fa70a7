from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.training.planning import planner
from acestep.training.planning.planner import find_alternative, free_bytes, plan_run
from acestep.training.planning.probe import ProbeResult
from acestep.training.planning.run_shape import RunShape
from acestep.training.planning.step_settings import StepSettings
from small_family import SmallFamily
from small_step import settings_for

GB = 1_000_000_000


def shape_in(folder: Path, **values: Any) -> RunShape:
    defaults = {"steps": 10, "tracks": 4, "audio_s": 400.0, "output_dir": folder / "out" / "deep", "cache_dir": folder}
    return RunShape(**{**defaults, **values})


def test_a_plan_says_what_a_run_needs_and_is_json(tmp_path: Path):
    family = SmallFamily()
    run = shape_in(tmp_path, validations=2, held_out_tracks=1, to_encode_s=400.0, variants=2)
    plan = plan_run(family, settings_for(family, accumulation=2), run)
    assert plan.fits
    assert plan.probed
    assert plan.seconds is not None
    assert plan.step_s is not None
    assert plan.seconds["training"] == 10 * plan.step_s
    assert plan.total_s == sum(plan.seconds.values())
    assert json.loads(json.dumps(plan.as_dict()))["fits"] is True
    assert "memory" in plan.table()
    assert plan.alternative is None
    assert not (tmp_path / "out").exists()


def test_without_a_probe_nothing_runs_and_no_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    monkeypatch.setattr(planner, "probe_step", lambda *_, **__: pytest.fail("it ran"))
    plan = plan_run(family, settings_for(family), shape_in(tmp_path), probe=False)
    assert (plan.step_s, plan.seconds, plan.total_s) == (None, None, None)
    assert plan.peak_bytes > 0
    assert plan.table()


def test_the_cache_holds_every_second_of_every_variant(tmp_path: Path):
    family = SmallFamily()
    one = plan_run(family, settings_for(family), shape_in(tmp_path, to_encode_s=400.0), probe=False).disk["cache"]
    two = plan_run(family, settings_for(family), shape_in(tmp_path, to_encode_s=400.0, variants=3), probe=False).disk[
        "cache"
    ]
    assert two == pytest.approx(3 * one, abs=2)
    assert one >= 400 * family.latent_rate * 8 * 16 * 4
    assert plan_run(family, settings_for(family), shape_in(tmp_path), probe=False).disk["cache"] == 0


def test_a_step_that_ran_out_of_memory_is_a_problem_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    settings = settings_for(family, frames=512, batch_size=4, gradient_checkpointing=False)
    monkeypatch.setattr(planner, "probe_step", lambda *_, **__: ProbeResult(fits=False))
    plan = plan_run(family, settings, shape_in(tmp_path), limit_bytes=100 * GB)
    assert not plan.fits
    assert "ran out of memory" in plan.problems[0]
    assert plan.alternative is not None
    assert plan.alternative.changes == {"gradient_checkpointing": True}
    assert "gradient_checkpointing: true" in plan.advice[0]


def test_what_needs_far_more_than_there_is_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    monkeypatch.setattr(planner, "probe_step", lambda *_, **__: pytest.fail("it ran"))
    plan = plan_run(family, settings_for(family), shape_in(tmp_path), limit_bytes=1000)
    assert plan.alternative is None
    assert "does not fit in memory" in plan.problems[0]
    assert "more memory" in plan.advice[0]


def test_a_full_disk_is_a_problem_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    family = SmallFamily()
    monkeypatch.setattr(planner, "free_bytes", lambda _: 1000)
    plan = plan_run(family, settings_for(family), shape_in(tmp_path), probe=False)
    assert any(str(tmp_path / "out") in problem and "1 kB" in problem for problem in plan.problems)


def test_free_bytes_of_a_folder_to_come_are_those_of_where_it_will_be(tmp_path: Path):
    assert free_bytes(tmp_path / "nicht" / "da" / "ünïcode") == pytest.approx(free_bytes(tmp_path), rel=0.01)


class Costs:
    """A made-up count: bytes by what the settings are."""

    def __call__(self, settings: StepSettings) -> int:
        activations = 10 * settings.frames * settings.batch_size
        if settings.gradient_checkpointing:
            activations //= 5
        base = {None: 40_000, "int8": 20_000, "nf4": 10_000}[settings.quantization]
        return base + activations + 100 * settings.rank


def changes(settings: StepSettings, limit: int) -> dict[str, Any] | None:
    family = SmallFamily()
    found = find_alternative(family, settings, Costs(), limit)
    return None if found is None else dict(found.changes)


def wasteful(**values: Any) -> StepSettings:
    step = settings_for(SmallFamily(), frames=1000, rank=64, batch_size=4, gradient_checkpointing=False)
    return replace(step, adapter={"alpha": 128.0}, **values)


def test_what_learns_the_same_is_tried_first():
    assert Costs()(wasteful()) == 86_400
    assert changes(wasteful(), 60_000) == {"gradient_checkpointing": True}
    smaller = {"gradient_checkpointing": True, "training.batch_size": 1, "training.gradient_accumulation": 4}
    assert changes(wasteful(), 49_000) == smaller


def test_changes_that_were_not_needed_are_taken_back():
    # int8 alone suffices once it is reached, so the window and the batch stay.
    found = changes(wasteful(gradient_checkpointing=True), 35_000)
    assert found == {"base_quantization": "int8"}


def test_a_lower_rank_keeps_the_ratio_of_alpha_and_comes_last():
    found = changes(wasteful(quantization="nf4", gradient_checkpointing=True), 12_600)
    assert found is not None
    assert found["lora.rank"] < 64
    assert found["lora.alpha"] == 2 * found["lora.rank"]
    assert changes(wasteful(), 5_000) is None


def test_a_rank_pattern_shrinks_with_the_rank():
    step = wasteful(quantization="nf4")
    step = replace(step, adapter={"alpha": 128.0, "ranks": {"a": 32, "b": 1}})
    shrunk = planner._with(step, [{"rank": 16}])
    assert shrunk.adapter == {"alpha": 32.0, "ranks": {"a": 8, "b": 1}}


def test_memory_of_a_cpu_is_what_is_available_and_what_we_hold():
    assert planner.memory_limit(torch.device("cpu")) > 0
