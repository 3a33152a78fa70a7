"""What has to be in the cache for a folder: each recording and its changed copies, read ahead of their encoding.

`find_jobs` runs in a background thread. What another run is making is left to the end, so that two share the work.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from acestep.audio.streaming import Audio
from acestep.datasets.augmentation import Augmentation, Change
from acestep.datasets.encoding import CONTEXT_S, WINDOW_S
from acestep.datasets.folder import Track
from acestep.datasets.latent_cache import Claim, LatentCache
from acestep.datasets.prefetching import Prefetched, prefetch
from acestep.errors import AudioError
from acestep.families.base import EncoderFingerprints

WAIT_S = 600.0
"""How long another run may take over one recording before it is encoded here as well."""
_CACHE_VERSION = 1
_BLOCKS_AHEAD = 4
"""Of ten seconds each, 3.5 MB."""
_POLL_S = 0.1


@dataclass(frozen=True)
class FileState:
    """What tells that a file was written to."""

    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """AudioError where there is no file to look at."""
        try:
            found = path.stat()
        except OSError as error:
            raise AudioError(f"it cannot be read: {error.strerror or error}") from error
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class Version:
    """A recording, or a changed copy of it, and where its latents and conditioning belong."""

    track: Track
    number: int
    """0 is the recording itself."""
    content: str
    file: FileState
    change: Change
    prompt: str
    latents: Path
    conditioning: Path

    def audio(self, sample_rate: int) -> Iterator[Audio]:
        """Blocks (2, samples), read and changed as they are asked for; AudioError as `stream_recording`."""
        yield from self.change.read(self.track.path, sample_rate)
        if FileState.of(self.track.path) != self.file:
            raise AudioError("it changed while it was read; prepare again when it is finished")


@dataclass(frozen=True)
class Job:
    """A version, with the frames that the cache has of it or else its audio, claimed where that is possible."""

    version: Version
    frames: int | None
    audio: Prefetched[Audio] | None = None
    claim: Claim | None = None

    def close(self) -> None:
        if self.audio is not None:
            self.audio.close()
        if self.claim is not None:
            self.claim.release()


@dataclass(frozen=True)
class Unreadable:
    """A recording whose content could not even be hashed."""

    track: Track
    reason: str


@dataclass(frozen=True)
class VersionFinder:
    """What every version's place in the cache depends on."""

    cache: LatentCache
    encoders: EncoderFingerprints
    sample_rate: int
    augmentation: Augmentation
    stopped: threading.Event
    """Set when nobody wants jobs any more, so that waiting for another run ends."""

    def find_jobs(self, tracks: Sequence[Track]) -> Iterator[Job | Unreadable]:
        """Every version of every track once; those that another run is making come last. CacheWriteError where the
        cache cannot be written to."""
        made_elsewhere = []
        for track in tracks:
            try:
                versions = self.versions(track)
            except AudioError as error:
                yield Unreadable(track, str(error))
                continue
            for version in versions:
                job = self._job(version)
                if job is not None:
                    yield job
                else:
                    made_elsewhere.append(version)
                del job  # its audio and claim belong to the consumer alone
        for version in made_elsewhere:
            yield self._wait(version)

    def versions(self, track: Track) -> tuple[Version, ...]:
        """The recording and its copies, in their order; AudioError where it cannot be read."""
        file, content = FileState.of(track.path), _sha256(track.path)
        changes = (Change(), *self.augmentation.changes(content, track.annotation, track.duration_s))
        return tuple(self._version(track, number, content, file, change) for number, change in enumerate(changes))

    def frames(self, version: Version) -> int | None:
        """Frames of the version's latents in the cache; None where they are absent or damaged."""
        shape = (self.cache.shapes(version.latents) or {}).get("latents", ())
        return shape[2] if len(shape) == 3 and shape[2] else None

    def _version(self, track: Track, number: int, content: str, file: FileState, change: Change) -> Version:
        annotation = change.annotate(track.annotation)
        prompt = annotation.text_prompt()
        latents = self.cache.path(
            "latents",
            version=_CACHE_VERSION,
            content=content,
            encoder=self.encoders.audio,
            sample_rate=self.sample_rate,
            window_s=WINDOW_S,
            context_s=CONTEXT_S,
            **change.origin(),
        )
        conditioning = self.cache.path(
            "conditioning",
            version=_CACHE_VERSION,
            encoder=self.encoders.text,
            prompt=prompt,
            lyrics=annotation.lyrics,
        )
        return Version(track, number, content, file, change, prompt, latents, conditioning)

    def _job(self, version: Version) -> Job | None:
        """None where another run, or an equal recording before this one, is making it."""
        if (frames := self.frames(version)) is not None:
            return Job(version, frames)
        claim = self.cache.claim(version.latents)
        if claim is None:
            return None
        if (frames := self.frames(version)) is not None:
            claim.release()
            return Job(version, frames)
        return Job(version, None, self._read_ahead(version), claim)

    def _wait(self, version: Version) -> Job:
        patience_ends = time.monotonic() + WAIT_S
        while time.monotonic() < patience_ends and not self.stopped.wait(_POLL_S):
            if (job := self._job(version)) is not None:
                return job
        return Job(version, None, self._read_ahead(version))

    def _read_ahead(self, version: Version) -> Prefetched[Audio]:
        return prefetch(version.audio(self.sample_rate), depth=_BLOCKS_AHEAD)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"it cannot be read: {error.strerror or error}") from error
