from __future__ import annotations

from pathlib import Path

import pytest

from acestep.training.planning.host_memory import available_bytes, group_limit_bytes, process_bytes, total_bytes

GIB = 1 << 30


def make_root(root: Path, *, groups: str, files: dict[str, str]) -> Path:
    meminfo = f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {40 * GIB // 1024} kB\n"
    for name, text in {"proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_a_machine_without_limits_has_what_the_kernel_says(tmp_path: Path):
    root = make_root(tmp_path, groups="0::/\n", files={"sys/fs/cgroup/memory.max": "max\n"})
    assert (total_bytes(root), available_bytes(root), group_limit_bytes(root)) == (64 * GIB, 40 * GIB, None)


@pytest.mark.parametrize("place", ["", "/a", "/a/b"])
def test_a_limit_anywhere_above_the_process_counts(tmp_path: Path, place: str):
    files = {f"sys/fs/cgroup{place}/memory.max": f"{8 * GIB}\n", f"sys/fs/cgroup{place}/memory.current": f"{3 * GIB}\n"}
    root = make_root(tmp_path, groups="0::/a/b\n", files=files)
    assert (total_bytes(root), available_bytes(root), group_limit_bytes(root)) == (8 * GIB, 5 * GIB, 8 * GIB)


def test_version_1_groups_are_read_and_their_no_limit_is_none(tmp_path: Path):
    mount = "sys/fs/cgroup/memory"
    files = {f"{mount}/memory.limit_in_bytes": "9223372036854771712\n", f"{mount}/x/memory.limit_in_bytes": f"{GIB}\n"}
    root = make_root(tmp_path, groups="4:memory:/x\n3:cpuset:/\n0::/\n", files=files)
    assert (total_bytes(root), group_limit_bytes(root)) == (GIB, GIB)


def test_a_group_that_uses_more_than_its_limit_leaves_nothing(tmp_path: Path):
    files = {"sys/fs/cgroup/memory.max": f"{GIB}", "sys/fs/cgroup/memory.current": f"{2 * GIB}"}
    assert available_bytes(make_root(tmp_path, groups="0::/\n", files=files)) == 0


@pytest.mark.parametrize("groups", ["", "nonsense\n", "::\n", "0::/gone/away\n"])
def test_damaged_and_missing_files_are_passed_over(tmp_path: Path, groups: str):
    root = make_root(tmp_path, groups=groups, files={"sys/fs/cgroup/memory.max": "many\n"})
    assert total_bytes(root) == 64 * GIB


def test_this_process_holds_some_of_this_machine():
    assert 0 <= process_bytes() < total_bytes()
    assert 0 < available_bytes() <= total_bytes()
