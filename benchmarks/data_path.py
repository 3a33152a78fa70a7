"""The data path: what a step waits for its batch, what memory tracks cost, and what preparing a folder takes.

Beside each figure stands what one would do without a cache: read, decode and encode the window again at each step; hold
all latents in memory; read and encode one recording after the other.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from acestep.audio import read_audio, stream_recording
from acestep.datasets import Augmentation, CachedTrack, LatentDataset, prefetch, prepare_dataset
from acestep.datasets.encoding import encode_recording
from acestep.datasets.latent_cache import LatentCache
from acestep.families import Family
from acestep.families.loading import load_family
from acestep.lora import attach_trainable, find_targets, module_shapes
from acestep.training.objective import draw, losses_under

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
RATE = 48000
"""Of the recordings, so that they have to be resampled."""
PROMPT = "lofi, mellow, electric piano, 82 bpm, A minor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--window", type=float, default=30.0, help="seconds of a track that a step sees")
    parser.add_argument("--tracks", type=int, default=6)
    parser.add_argument("--duration", type=float, default=90.0, help="seconds of each recording")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--hold", nargs=2, metavar=("FOLDER", "TRACKS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        walk(Path(options.hold[0]), int(options.hold[1]))
        return
    family = load_family(options.model)
    print(f"{options.model}, {family.device}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_recordings(root, options.tracks, options.duration)
        preparing(family, root)
        loading(family, root, window_s=options.window, steps=options.steps)
    with tempfile.TemporaryDirectory() as folder:
        memory(family, Path(folder))


def preparing(family: Family, root: Path) -> None:
    files = sorted((root / "audio").iterdir())
    encode_recording(family, files[0])  # warms up
    in_turn = seconds(lambda: [encode_recording(family, path) for path in files])
    ours = seconds(lambda: prepare_dataset(root, family, cache_dir=root / "one"))
    print(
        f"\npreparing {len(files)} recordings: {ours:.2f} s read ahead, {in_turn:.2f} s in turn: {in_turn / ours:.2f}x"
    )
    two = Augmentation(variants=2)
    copies = seconds(lambda: prepare_dataset(root, family, cache_dir=root / "two", augmentation=two))
    print(
        f"with {two.variants} copies of each: {copies:.2f} s, {copies / ours:.2f}x (3x as much audio, some stretched)"
    )
    reading = seconds(lambda: [list(stream_recording(path, family.sample_rate)) for path in files])
    waiting = Waiting(family, reading / len(files))
    in_turn = seconds(lambda: [waiting.encode(path) for path in files])
    ahead = seconds(lambda: waiting.prepare(root))
    print(
        f"beside an encoder that only waits, as for a GPU: {ahead:.2f} s, {in_turn:.2f} s in turn:"
        f" {in_turn / ahead:.2f}x"
    )
    again = seconds(lambda: prepare_dataset(root, family, cache_dir=root / "one"))
    print(f"again from the cache: {again:.2f} s, {ours / again:.0f}x faster")


class Waiting:
    """A family whose audio is encoded elsewhere: each window takes as long as reading a recording does."""

    def __init__(self, family: Family, window_s: float) -> None:
        self.family, self.window_s = copy.copy(family), window_s
        self.family.encode_audio = self._wait  # type: ignore[method-assign]

    def encode(self, path: Path) -> torch.Tensor:
        return encode_recording(self.family, path)

    def prepare(self, root: Path) -> LatentDataset:
        return prepare_dataset(root, self.family, cache_dir=root / "waiting")

    def _wait(self, audio: torch.Tensor) -> torch.Tensor:
        time.sleep(self.window_s)
        return torch.zeros(1, 8, 16, -(-audio.shape[-1] // round(self.family.sample_rate / self.family.latent_rate)))


def loading(family: Family, root: Path, *, window_s: float, steps: int) -> None:
    dataset = prepare_dataset(root, family, cache_dir=root / "one", max_duration_s=window_s)
    modules = find_targets(module_shapes(family.network), TARGETS, family.lora_aliases)
    adapter = attach_trainable(family.network, modules, rank=16, alpha=16)
    optimizer = torch.optim.AdamW(adapter.parameters().values(), lr=1e-4)
    indices = [(step % len(dataset),) for step in range(steps + 1)]
    hop = round(family.sample_rate / family.latent_rate)

    def encoded_again(index: int) -> torch.Tensor:
        path = root / "audio" / dataset.tracks[index].name
        audio = read_audio(path, sample_rate=family.sample_rate)[:, : dataset.window(index) * hop]
        with torch.no_grad():
            family.encode_prompt([PROMPT], [""])
            return family.encode_audio(torch.from_numpy(np.ascontiguousarray(audio)).unsqueeze(0))

    batch_s = statistics.median(seconds(lambda i=i: dataset.batch(i)) for i in indices * 4)  # type: ignore[misc]
    plain_s = statistics.median(seconds(lambda i=i: encoded_again(i[0])) for i in indices[:4])  # type: ignore[misc]
    times = []
    with prefetch(dataset.batch(index) for index in indices) as batches:
        for step, batch in enumerate(batches):
            began = time.perf_counter()
            draws = draw(0, step, indices[step], batch.latents.shape[1:], family.noise)
            conditioning = batch.conditioning.to(family.device)
            losses = losses_under(family.velocity, batch.latents.to(family.device), conditioning, draws)
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - began)
            if step == 0:
                batches.waited_s = 0.0  # the first of all has nothing to hide behind
    step_s = statistics.median(times[1:])
    waited_s = batches.waited_s / (len(times) - 1)
    print(f"\na step of {window_s:g} s windows: {step_s * 1e3:.0f} ms")
    print(f"its batch, from the cache:      {batch_s * 1e3:.2f} ms, {batch_s / step_s:.2%} of a step (aim 5 %)")
    print(f"waited for it, read ahead:      {waited_s * 1e3:.2f} ms, {waited_s / step_s:.2%} of a step")
    print(f"read, decoded, encoded again:   {plain_s * 1e3:.0f} ms, {plain_s / batch_s:.0f}x the batch's time")


def memory(family: Family, root: Path) -> None:
    """Peak memory of a process that reads two epochs of 10 and of 1000 tracks, by their files of 60 seconds each."""
    cache, frames = LatentCache(root), family.latent_frames(60)
    conditioning = family.encode_prompt([PROMPT], [""]).tensors()
    for index in range(1000):
        cache.store(cache.path("latents", index=index), {"latents": torch.randn(8, 16, frames)})
    cache.store(cache.path("conditioning", index=0), conditioning)
    peaks = {}
    for tracks in (10, 1000):
        command = [sys.executable, __file__, "--hold", str(root), str(tracks)]
        peaks[tracks] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    held_mb = 990 * frames * 512 / 1e6
    print(f"\nmemory with 10 tracks {peaks[10]} MB, with 1000 tracks {peaks[1000]} MB: {peaks[1000] / peaks[10]:.2f}x")
    print(f"held in memory, 1000 tracks would take {held_mb:.0f} MB more")


def walk(root: Path, tracks: int) -> None:
    """Two epochs' windows of 30 s; prints the process's peak memory in MB."""
    cache = LatentCache(root)
    shapes = cache.shapes(cache.path("latents", index=0)) or {}
    conditioning = cache.path("conditioning", index=0)
    cached = tuple(
        CachedTrack(str(i), str(i), "", shapes["latents"][2], cache.path("latents", index=i), conditioning)
        for i in range(tracks)
    )
    dataset = LatentDataset(cached, crop_frames=shapes["latents"][2] // 2)
    for epoch in range(2):
        with prefetch(dataset.at_epoch(epoch).batch([index]) for index in range(tracks)) as batches:
            for _ in batches:
                pass
    # Not getrusage, whose peak still holds that of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def write_recordings(folder: Path, tracks: int, duration_s: float) -> None:
    """Tones under noise as mp3: what reading and encoding cost does not depend on what is heard."""
    (folder / "audio").mkdir()
    rows = ["filename,prompt"]
    generator = np.random.default_rng(0)
    time_s = np.arange(int(duration_s * RATE)) / RATE
    for index in range(tracks):
        tone = 0.3 * np.sin(2 * np.pi * 110 * (index + 1) * time_s)[:, None]
        audio = tone + 0.05 * generator.standard_normal((len(time_s), 2))
        soundfile.write(str(folder / "audio" / f"{index}.mp3"), audio, RATE)
        rows.append(f'{index}.mp3,"{PROMPT}"')
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
