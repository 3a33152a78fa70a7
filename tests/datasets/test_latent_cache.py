import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from acestep.datasets import latent_cache
from acestep.datasets.latent_cache import LatentCache, choose_cache_folder, read_frames


def test_an_entrys_place_depends_on_all_of_its_origin(tmp_path: Path):
    cache = LatentCache(tmp_path)
    paths = {cache.path("latents", content=c, rate=r) for c in ("a", "b") for r in (1, 2)}
    assert len(paths) == 4
    assert cache.path("latents", rate=1, content="a") in paths


def test_a_window_reads_as_the_whole_sliced(tmp_path: Path):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")
    latents = torch.randn(8, 16, 50)
    cache.store(path, {"latents": latents})
    assert cache.shapes(path) == {"latents": (8, 16, 50)}
    assert torch.equal(read_frames(path, "latents", 7, 20), latents[..., 7:27])


@pytest.mark.parametrize("error", [OSError("no space left on device"), SafetensorError("I/O: no space left on device")])
def test_an_entry_that_fails_in_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")

    def half_written(tensors: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(latent_cache, "save_file", half_written)
    with pytest.raises(OSError, match="no space"):
        cache.store(path, {"latents": torch.zeros(1)})
    assert cache.shapes(path) is None
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def test_a_damaged_entry_counts_as_absent(tmp_path: Path):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")
    cache.store(path, {"latents": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:50])
    assert cache.shapes(path) is None


def test_a_folder_that_cannot_be_written_falls_back_to_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert choose_cache_folder(tmp_path) == tmp_path / ".cache"
    (tmp_path / "file").touch()
    assert choose_cache_folder(tmp_path / "file") == tmp_path / "xdg" / "acestep" / "latents"


def test_an_entry_is_claimed_by_one_at_a_time_and_the_claim_leaves_nothing(tmp_path: Path):
    cache, other = LatentCache(tmp_path), LatentCache(tmp_path)
    path = cache.path("latents", content="a")
    claim = cache.claim(path)
    assert claim is not None
    assert other.claim(path) is None
    assert other.claim(cache.path("latents", content="b")) is not None
    claim.release()
    claim.release()
    again = other.claim(path)
    assert again is not None
    again.release()
    assert not list(tmp_path.rglob("*.claim"))


CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from acestep.datasets.latent_cache import LatentCache
cache = LatentCache(Path(sys.argv[1]))
claim = cache.claim(cache.path("latents", content="a"))
print("claimed", flush=True)
time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        assert cache.claim(path) is None
        process.send_signal(signal.SIGKILL)
    assert cache.claim(path) is not None


def test_where_files_cannot_be_locked_everyone_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(latent_cache.fcntl, "flock", no_locks)
    cache = LatentCache(tmp_path)
    claims = [cache.claim(cache.path("latents", content="a")) for _ in range(2)]
    assert None not in claims


def test_old_leftovers_are_removed_and_what_is_being_written_is_not(tmp_path: Path):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")
    cache.store(path, {"latents": torch.zeros(1)})
    held = cache.claim(path)
    new, old, forgotten = (path.with_name(name) for name in ("a.1.partial", "a.2.partial", "b.claim"))
    for leftover in (new, old, forgotten):
        leftover.touch()
    hours_ago = time.time() - 7200
    for leftover in (old, forgotten, path, path.with_suffix(".claim")):
        os.utime(leftover, (hours_ago, hours_ago))
    cache.remove_leftovers()
    assert sorted(entry.name for entry in path.parent.iterdir()) == sorted(
        [new.name, path.name, path.with_suffix(".claim").name]
    )
    assert held is not None
    LatentCache(tmp_path / "none").remove_leftovers()
