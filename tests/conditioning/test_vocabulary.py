from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from acestep.conditioning import vocabulary
from acestep.conditioning.vocabulary import VOCABULARY_FILE, cache_folder, download_url, find_vocabulary
from acestep.errors import MissingWeightsError
from reference_data import reference_path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ACESTEP_CACHE", str(folder))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return folder


@pytest.fixture
def known_contents(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Contents that pass for the released file, so that no test needs the file itself."""
    contents = b'{"model": "a stand-in"}'
    monkeypatch.setattr(vocabulary, "V1_VOCABULARY_SHA256", vocabulary.hashlib.sha256(contents).hexdigest())
    return contents


def refuse(url: str) -> bytes:
    raise AssertionError(f"asked for {url}")


def test_a_checkpoint_with_a_vocabulary_of_its_own_keeps_it(tmp_path: Path):
    own = tmp_path / VOCABULARY_FILE
    own.parent.mkdir()
    own.write_text("{}", encoding="utf-8")
    assert find_vocabulary(tmp_path, download=refuse) == own


def test_a_fetched_vocabulary_is_cached_and_not_fetched_again(tmp_path: Path, cache: Path, known_contents: bytes):
    found = find_vocabulary(tmp_path, download=lambda url: known_contents)
    assert found == cache / VOCABULARY_FILE
    assert found.read_bytes() == known_contents
    assert find_vocabulary(tmp_path, download=refuse) == found
    assert [path.name for path in found.parent.iterdir()] == ["vocab.json"]


def test_a_damaged_cached_vocabulary_is_fetched_anew(tmp_path: Path, cache: Path, known_contents: bytes):
    damaged = cache / VOCABULARY_FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(known_contents[:-3])
    assert find_vocabulary(tmp_path, download=lambda url: known_contents).read_bytes() == known_contents


def test_other_contents_are_never_written(tmp_path: Path, cache: Path):
    with pytest.raises(MissingWeightsError, match="another file: 9 bytes"):
        find_vocabulary(tmp_path, download=lambda url: b"<!DOCTYPE")
    assert not cache.exists()


def test_offline_asks_nobody_and_says_what_to_do(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeightsError) as caught:
        find_vocabulary(tmp_path, download=refuse)
    message = str(caught.value)
    for part in ("364,005 bytes", str(tmp_path / VOCABULARY_FILE), str(cache), "curl", "HF_HUB_OFFLINE", "https://"):
        assert part in message


def test_an_unreachable_address_is_reported_as_missing_weights(tmp_path: Path):
    def fail(url: str) -> bytes:
        raise TimeoutError("no answer")

    with pytest.raises(MissingWeightsError, match="no answer"):
        find_vocabulary(tmp_path, download=fail)


def test_a_cache_that_cannot_be_written_is_reported_as_missing_weights(
    tmp_path: Path, cache: Path, known_contents: bytes
):
    cache.write_text("a file stands where the folder should", encoding="utf-8")
    with pytest.raises(MissingWeightsError, match=r"vocab\.json"):
        find_vocabulary(tmp_path, download=lambda url: known_contents)


def test_the_cache_follows_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("ACESTEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "acestep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "acestep"


def test_the_pinned_hash_is_that_of_the_reference_vocabulary():
    contents = reference_path("lyrics/vocab.json").read_bytes()
    assert len(contents) == vocabulary.V1_VOCABULARY_BYTES
    assert vocabulary.hashlib.sha256(contents).hexdigest() == vocabulary.V1_VOCABULARY_SHA256


def test_an_address_is_read_over_http(server: str):
    assert download_url(f"{server}/vocab.json") == b"contents"


def test_an_address_without_the_file_is_an_os_error(server: str):
    with pytest.raises(OSError, match="404"):
        download_url(f"{server}/nothing")


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/vocab.json"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(b"contents" if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()
