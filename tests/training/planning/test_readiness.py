from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from acestep.families.hub import V1_HUB_ID
from acestep.training.planning.machine import LISTENERS, Disk, Gpu, Machine, Weights
from acestep.training.planning.readiness import V1_NEEDS, check_machine, judge_nano, judge_v1

GB = 1_000_000_000


def made_up(gpu_gb: float | None = 24.0, **values: Any) -> Machine:
    gpus = () if gpu_gb is None else (Gpu("Made-up 9000", "cuda", int(gpu_gb * GB), int(gpu_gb * GB), "9.0"),)
    best = Machine(
        system="Linux", python="3.12.1", cpus=8, memory_bytes=64 * GB, memory_available_bytes=60 * GB,
        memory_limit_bytes=None, gpus=gpus, driver="570.1", cuda="12.8", libraries={"torch": "2.13"},
        extras={"wandb": True}, disks=(Disk(".", "runs and cached latents", 900 * GB, True),),
        weights=(Weights("nano", "complete"), Weights(V1_HUB_ID, "complete")),
    )  # fmt: skip
    return replace(best, **values)


def test_a_good_machine_has_nothing_to_be_told():
    machine = made_up()
    assert all(check.grade == "good" and check.advice is None for check in check_machine(machine))
    assert judge_nano(machine).can_train
    assert judge_v1(machine).can_train


@pytest.mark.parametrize(
    ("gpu_gb", "quantization", "checkpointing"),
    [(80, None, False), (24, None, False), (16, None, True), (12, None, True), (8, "int8", True), (6, "nf4", True)],
)
def test_smaller_gpus_train_with_smaller_settings(gpu_gb: float, quantization: str | None, checkpointing: bool):
    verdict = judge_v1(made_up(gpu_gb))
    assert verdict.can_train
    assert verdict.settings["base_quantization"] == quantization
    assert verdict.settings["gradient_checkpointing"] is checkpointing


def test_needs_are_in_order_so_that_the_first_that_fits_is_the_best():
    sizes = [need.gpu_gb for need in V1_NEEDS]
    assert sizes == sorted(sizes, reverse=True)


def test_too_small_a_gpu_trains_nano_and_says_so():
    machine = made_up(4)
    assert judge_nano(machine).can_train
    verdict = judge_v1(machine)
    assert not verdict.can_train
    assert any("4.0 GB" in line and "nano" in line for line in verdict.advice)


def test_a_gpu_that_is_in_use_is_no_small_gpu():
    gpu = Gpu("Made-up 9000", "cuda", 24 * GB, 2 * GB, "9.0")
    verdict = judge_v1(made_up(gpus=(gpu,)))
    assert not verdict.can_train
    assert any("2.0 GB are free" in line for line in verdict.advice)


def test_without_a_gpu_memory_decides_about_v1():
    assert judge_v1(made_up(None)).can_train
    assert "days" in judge_v1(made_up(None)).how
    assert not judge_v1(made_up(None, memory_bytes=16 * GB)).can_train


def test_a_container_limit_is_what_counts_and_is_told():
    machine = made_up(memory_bytes=1 * GB, memory_limit_bytes=1 * GB)
    assert not judge_nano(machine).can_train
    assert any("limit of this container" in check.found for check in check_machine(machine))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"python": "3.9.1"}, "too old"),
        ({"libraries": {"torch": "2.13", "soxr": None}}, "soxr"),
        ({"memory_bytes": GB}, "memory"),
        ({"disks": (Disk("/full", "runs and cached latents", GB // 2, True),)}, "/full"),
        ({"disks": (Disk("/locked", "runs and cached latents", 900 * GB, False),)}, "cannot be written"),
        ({"weights": ()}, "reinstall"),
    ],
)
def test_what_stands_in_the_way_of_nano_is_named(values: dict[str, Any], word: str):
    verdict = judge_nano(made_up(**values))
    assert not verdict.can_train
    assert any(word in line for line in verdict.advice)


def test_missing_weights_are_told_with_their_size_and_the_command():
    weights = (Weights("nano", "complete"), Weights(V1_HUB_ID, "partial", missing=("a",), bytes_missing=3 * GB))
    verdict = judge_v1(made_up(weights=weights, is_offline=True))
    (line,) = verdict.advice
    assert "3.0 GB" in line
    assert f"hf download {V1_HUB_ID}" in line
    assert "HF_HUB_OFFLINE" in line


@pytest.mark.parametrize(
    ("name", "advice"),
    [("nano", "reinstall"), (V1_HUB_ID, f"hf download {V1_HUB_ID}"), (LISTENERS[0], "alignment losses alone need")],
)
def test_each_models_missing_weights_are_got_in_their_own_way(name: str, advice: str):
    check = next(check for check in check_machine(made_up(weights=(Weights(name, "absent"),))) if check.name == name)
    assert advice in (check.advice or "")


def test_a_driver_without_a_usable_gpu_is_explained():
    cpu_build = check_machine(made_up(None, cuda=None))[0]
    old_driver = check_machine(made_up(None))[0]
    assert "built for the CPU" in (cpu_build.advice or "")
    assert "newer driver" in (old_driver.advice or "")
