"""Where a checkpoint's lyric vocabulary is: with the checkpoint, in our cache, or at the upstream repository.

The v1 release does not hold its vocabulary. It is a file of the upstream source repository, taken from one commit and
checked against its sha256, so that whatever answers at that address, only the file the model was trained with is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from acestep.errors import MissingWeightsError

VOCABULARY_FILE = Path("lyric_tokenizer") / "vocab.json"
V1_VOCABULARY_URL = (
    "https://raw.githubusercontent.com/ace-step/ACE-Step/1bee4c9f5b43e30995f8d4d33b3919197ce1bd68"
    "/acestep/models/lyrics_utils/vocab.json"
)
V1_VOCABULARY_SHA256 = "c2a66ea48c478c0bb9acb5497144b926acdeaa37128faa799508d40f2b9cc558"
V1_VOCABULARY_BYTES = 364_005

logger = logging.getLogger(__name__)


def find_vocabulary(checkpoint: Path, *, download: Callable[[str], bytes] | None = None) -> Path:
    """The vocabulary of a checkpoint folder; fetched into our cache when neither has it.

    A vocabulary beside the checkpoint is that checkpoint's own and is taken as it is. MissingWeightsError when there
    is none and it cannot be fetched (offline, no network, wrong contents). download gets the bytes at an address.
    """
    own = checkpoint / VOCABULARY_FILE
    if own.is_file():
        return own
    cached = cache_folder() / VOCABULARY_FILE
    if cached.is_file() and _is_v1_vocabulary(cached.read_bytes()):
        return cached
    try:
        contents = _fetch(download or download_url)
        _write_whole(cached, contents)
    except OSError as error:
        raise MissingWeightsError(_advice(own, cached, error)) from error
    logger.info("fetched the v1 lyric vocabulary into %s", cached)
    return cached


def cache_folder() -> Path:
    """Our cache: ACESTEP_CACHE, else acestep in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    chosen = os.environ.get("ACESTEP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "acestep"


def download_url(url: str) -> bytes:
    """The bytes at an http(s) address, no more than a vocabulary could have; OSError when they cannot be had."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return bytes(response.read(2 * V1_VOCABULARY_BYTES))


def is_offline() -> bool:
    """Whether the user has closed the network to the Hugging Face libraries, and with them to us."""
    switches = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(switch.upper() in {"1", "ON", "YES", "TRUE"} for switch in switches)


def _fetch(download: Callable[[str], bytes]) -> bytes:
    if is_offline():
        raise OSError("HF_HUB_OFFLINE is set")
    contents = download(V1_VOCABULARY_URL)
    if not _is_v1_vocabulary(contents):
        found = hashlib.sha256(contents).hexdigest()
        raise OSError(f"the address answered with another file: {len(contents)} bytes, sha256 {found}")
    return contents


def _is_v1_vocabulary(contents: bytes) -> bool:
    return hashlib.sha256(contents).hexdigest() == V1_VOCABULARY_SHA256


def _write_whole(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two processes that fetch at once do not write into one file.
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise


def _advice(own: Path, cached: Path, error: OSError) -> str:
    return (
        f"the lyric vocabulary of ACE-Step v1 is missing (vocab.json, {V1_VOCABULARY_BYTES:,} bytes): it is neither at "
        f"{own} nor at {cached}, and it could not be fetched ({error}). Get it with\n"
        f"  curl --location --create-dirs --output '{cached}' {V1_VOCABULARY_URL}\n"
        f"or put a copy with sha256 {V1_VOCABULARY_SHA256} at either place"
    )
