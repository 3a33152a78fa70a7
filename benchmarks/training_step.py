"""A training step on cached latents and states, beside loops that read and encode audio and words again at each step.

The released trainer reads the whole track at each step (up to 240 s), resamples it to 48 kHz, resamples that to 44.1
kHz and encodes all of it; encodes the prompt; cuts the lyrics into tokens and runs the lyric encoder; and asks MERT and
mHuBERT for what they hear in the track (shared reference, sections 4 and 7). It has no windows: it trains on the whole
track. Two plain loops stand for it here, both without MERT and mHuBERT, whose 400 million parameters would cost more
than all else, and both with the rest of the step being the same code as ours:

- window: the lightest loop that caches nothing, which seeks to the window in an uncompressed file of the right rate and
  encodes only that. Nobody can do less without a cache.
- whole track: what the released data path does before it would cut the same window, so that both train on the same.

The aim is 3x. Each step takes another track, with dropout on the adapter as configured by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
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
LOADED_AT = 48000


LYRICS = """[verse]
The kettle hums before the sun, the window wears a coat of frost
I count the coins for the early bus and every hour that I have lost
The baker waves across the road with flour drifting from his sleeve
He says the river froze last night, he says that no one ought to leave

[chorus]
So hold the morning like a lamp, so hold it where the wind is low
We never had a map to keep, we only had the way to go
And if the bridges all are down, and if the boats are under snow
Then hold the morning like a lamp, and I will find you by its glow

[verse]
The station clock is ten behind, the porter sweeps a paper crown
A child is drawing on the glass the tallest tower in the town
I wrote your name in seven books and left them where the readers sit
So any stranger passing through might turn a page and carry it

[chorus]
So hold the morning like a lamp, so hold it where the wind is low
We never had a map to keep, we only had the way to go
And if the bridges all are down, and if the boats are under snow
Then hold the morning like a lamp, and I will find you by its glow
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--window", type=float, default=60.0, help="seconds of a track that a step sees")
    parser.add_argument("--track", type=float, default=180.0, help="seconds of a track, of which the window is cut")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--instrumental", action="store_true", help="no lyrics")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each kind, in turns; the median counts")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()

    family = load_family(options.model)
    modules = find_targets(module_shapes(family.network), TARGETS, family.lora_aliases)
    lyrics = "" if options.instrumental else LYRICS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder, max(options.track, options.window), lyrics)
        dataset = prepare_dataset(folder, family, max_duration_s=options.window)
        with_words = with_lyric_states(dataset, family, modules, LatentCache(choose_cache_folder(folder)))
        adapter = attach_trainable(
            family.network, modules, rank=options.rank, alpha=options.rank, dropout=options.dropout
        )
        adapter.drop_out(True)
        sources: dict[str, Callable[[int], Batch]] = {
            "cached latents and states": lambda index: with_words.batch([index]),
            "window encoded again": lambda index: encode_window(family, dataset, folder, index, lyrics),
            "whole track encoded again": lambda index: encode_track(family, dataset, folder, index, lyrics),
        }
        steppers = {kind: Stepper(family, adapter, source, options.precision) for kind, source in sources.items()}
        # On a CPU its own time counts, so that other programs beside this one do not; work is not the waiting.
        clock = time.process_time if family.device.type == "cpu" else time.perf_counter
        seconds: dict[str, list[float]] = {kind: [] for kind in steppers}
        for turn in range(options.rounds + 1):
            for kind, stepper in steppers.items():
                started = clock()
                stepper.step(turn)
                seconds[kind].append(clock() - started)
        tokens = with_words.batch([0]).conditioning.lyric_ids.shape[1]
    medians = {kind: statistics.median(times[1:]) for kind, times in seconds.items()}  # the first of each warms up
    print(
        f"{options.model}, {options.window:g} s of {options.track:g} s, {tokens} lyric tokens, rank {options.rank},"
        f" dropout {options.dropout:g}, {options.precision}, {family.device}, {torch.get_num_threads()} threads"
        + (", seconds of processor time" if family.device.type == "cpu" else "")
    )
    ours = medians["cached latents and states"]
    for kind, median in medians.items():
        ratio = "" if kind.startswith("cached") else f"   {median / ours:5.2f}x (aim 3x)"
        print(f"{kind:28}{median:7.3f} s a step{ratio}")


class Stepper:
    """One optimizer step, from wherever its batch comes."""

    def __init__(
        self, family: Family, adapter: TrainableAdapter, batch: Callable[[int], Batch], precision: str
    ) -> None:
        self.family, self.batch, self.bf16 = family, batch, precision == "bf16"
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


def encode_window(family: Family, dataset: LatentDataset, folder: Path, index: int, lyrics: str) -> Batch:
    """The window of that track, from the place in the file where it begins."""
    hop = round(family.sample_rate / family.latent_rate)
    name, frames = dataset.tracks[index].name, dataset.window(index)
    audio, _ = soundfile.read(str(folder / "audio" / name), frames=frames * hop, dtype="float32", always_2d=True)
    latents = family.encode_audio(torch.from_numpy(audio.T).unsqueeze(0)).float()
    return Batch(latents, family.encode_prompt([PROMPT], [lyrics]), (name,))


def encode_track(family: Family, dataset: LatentDataset, folder: Path, index: int, lyrics: str) -> Batch:
    """The window of that track, cut from all of its latents, which come by way of the released trainer's 48 kHz."""
    name, frames = dataset.tracks[index].name, dataset.window(index)
    audio, rate = soundfile.read(str(folder / "audio" / name), dtype="float32", always_2d=True)
    loaded = soxr.resample(audio, rate, LOADED_AT)
    again = soxr.resample(loaded, LOADED_AT, family.sample_rate)
    latents = family.encode_audio(torch.from_numpy(np.ascontiguousarray(again.T)).unsqueeze(0)).float()
    return Batch(latents[..., :frames], family.encode_prompt([PROMPT], [lyrics]), (name,))


def write_recordings(folder: Path, duration_s: float, lyrics: str, rate: int = 44100) -> None:
    """Tones under noise: what a step costs does not depend on what it hears."""
    (folder / "audio").mkdir()
    (folder / "annotations").mkdir()
    generator = np.random.default_rng(0)
    time_s = np.arange(int(duration_s * rate)) / rate
    for index in range(TRACKS):
        tone = 0.3 * np.sin(2 * np.pi * 110 * (index + 1) * time_s)[:, None]
        audio = tone + 0.05 * generator.standard_normal((len(time_s), 2))
        soundfile.write(str(folder / "audio" / f"{index}.wav"), audio, rate)
        annotation = json.dumps({"prompt": PROMPT, "lyrics": lyrics})
        (folder / "annotations" / f"{index}.json").write_text(annotation, encoding="utf-8")


if __name__ == "__main__":
    main()
