from pathlib import Path

import pytest
import torch

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


def test_an_entry_that_fails_in_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = LatentCache(tmp_path)
    path = cache.path("latents", content="a")

    def half_written(tensors: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("no space left on device")

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
