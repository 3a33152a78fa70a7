"""A training step on cached latents beside one that reads and encodes its audio and text again, in the same run.

The second is what the released trainer does at each step, made lighter: it encodes the window that is trained on and
not the whole track, and computes no representation targets. The aim is 3x. The rest of the step is the same code.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from acestep.datasets import Batch, LatentDataset, prepare_dataset
from acestep.datasets.latent_cache import LatentCache, choose_cache_folder
from acestep.datasets.lyric_states import with_lyric_states
from acestep.families import Family
from acestep.families.loading import load_family
from acestep.lora import TrainableAdapter, attach_trainable, find_targets, module_shapes
from acestep.training.objective import draw, losses_under

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PROMPT = "lofi, mellow, electric piano, 82 bpm, A minor"
TRACKS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--window", type=float, default=60.0, help="seconds of a track that a step sees")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind, in turns; the median counts")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()

    family = load_family(options.model)
    modules = find_targets(module_shapes(family.network), TARGETS, family.lora_aliases)
    with tempfile.TemporaryDirectory() as folder:
        write_recordings(Path(folder), options.window + 10)
        dataset = prepare_dataset(folder, family, max_duration_s=options.window)
        cache = LatentCache(choose_cache_folder(Path(folder)))
        with_words = with_lyric_states(dataset, family, modules, cache)
        adapter = attach_trainable(family.network, modules, rank=options.rank, alpha=options.rank)
        bf16 = options.precision == "bf16"
        cached = Stepper(family, adapter, lambda index: with_words.batch([index]), bf16=bf16)
        plain = Stepper(family, adapter, lambda index: encode_again(family, dataset, Path(folder), index), bf16=bf16)
        # On a CPU its own time counts, so that other programs beside this one do not; work is not the waiting.
        clock = time.process_time if family.device.type == "cpu" else time.perf_counter
        seconds: dict[Stepper, list[float]] = {cached: [], plain: []}
        for turn in range(options.rounds + 1):
            for stepper, times in seconds.items():
                started = clock()
                stepper.step(turn)
                times.append(clock() - started)
        ours, theirs = (statistics.median(times[1:]) for times in seconds.values())  # the first of each warms up
    threads = torch.get_num_threads()
    print(
        f"{options.model}, {options.window:g} s, rank {options.rank}, {options.precision}, {family.device},"
        f" {threads} threads" + (", seconds of processor time" if family.device.type == "cpu" else "")
    )
    print(f"cached latents and text:         {ours:7.3f} s a step")
    print(f"audio and text encoded again:    {theirs:7.3f} s a step")
    print(f"ratio:                           {theirs / ours:7.2f}x (aim 3x)")


class Stepper:
    """One optimizer step, from wherever its batch comes."""

    def __init__(self, family: Family, adapter: TrainableAdapter, batch: Callable[[int], Batch], *, bf16: bool) -> None:
        self.family, self.batch, self.bf16 = family, batch, bf16
        self.optimizer = torch.optim.AdamW(adapter.parameters().values(), lr=1e-4, fused=True)

    def step(self, turn: int) -> float:
        batch, device = self.batch(turn % TRACKS), self.family.device
        draws = draw(0, turn, [0], batch.latents.shape[1:], self.family.noise)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            losses: Tensor = losses_under(
                self.family.velocity, batch.latents.to(device), batch.conditioning.to(device), draws
            )
        losses.mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(losses.detach().mean())


def encode_again(family: Family, dataset: LatentDataset, folder: Path, index: int) -> Batch:
    """The window of that track, from the file."""
    hop = round(family.sample_rate / family.latent_rate)
    track, frames = dataset.tracks[index], dataset.window(index)
    audio, _ = soundfile.read(str(folder / "audio" / track.name), frames=frames * hop, dtype="float32", always_2d=True)
    with torch.no_grad():
        latents = family.encode_audio(torch.from_numpy(audio.T).unsqueeze(0)).float()
        conditioning = family.encode_prompt([track.prompt], [""])
    return Batch(latents, conditioning, (track.name,))


def write_recordings(folder: Path, duration_s: float, rate: int = 44100) -> None:
    """Tones under noise: what a step costs does not depend on what it hears."""
    (folder / "audio").mkdir()
    rows = ["filename,prompt"]
    generator = np.random.default_rng(0)
    time_s = np.arange(int(duration_s * rate)) / rate
    for index in range(TRACKS):
        tone = 0.3 * np.sin(2 * np.pi * 110 * (index + 1) * time_s)[:, None]
        audio = tone + 0.05 * generator.standard_normal((len(time_s), 2))
        soundfile.write(str(folder / "audio" / f"{index}.wav"), audio, rate)
        rows.append(f'{index}.wav,"{PROMPT}"')
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
