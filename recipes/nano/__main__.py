"""Make nano from nothing: `python -m recipes.nano` from the repository's root.

Every stage keeps what it made in recipes/nano/work and goes on from there when it is run again, so the whole can be
stopped at any time. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from recipes.nano.autoencoder import build_autoencoder, train_autoencoder
from recipes.nano.checkpoints import load_weights
from recipes.nano.corpus import render_corpus
from recipes.nano.evaluate import ASSETS, evaluate
from recipes.nano.export import MAX_BYTES, export_nano
from recipes.nano.songs import SongBook, encode_songs
from recipes.nano.tokenizers import write_lyric_tokenizer, write_prompt_tokenizer
from recipes.nano.transformer import Nano, build_nano, train_transformer

STAGES = ("render", "autoencoder", "latents", "transformer", "export", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path(__file__).parent / "work", help="where stages keep what they made"
    )
    parser.add_argument("--assets", type=Path, default=ASSETS, help="where the finished checkpoint goes")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--codec-tracks", type=int, default=900)
    parser.add_argument("--songs", type=int, default=2600)
    parser.add_argument("--autoencoder-steps", type=int, default=3300)
    parser.add_argument("--transformer-steps", type=int, default=20_000)
    parser.add_argument("--transformer-minutes", type=float, default=42.0, help="stop training the transformer by then")
    parser.add_argument("--frames-per-step", type=int, default=2048)
    arguments = parser.parse_args()
    work, device = arguments.work, torch.device("cuda" if torch.cuda.is_available() else "cpu")

    if "render" in arguments.stages:
        workers = os.cpu_count() or 1
        render_corpus(work / "codec", "codec", arguments.codec_tracks, workers=workers)
        render_corpus(work / "songs", "songs", arguments.songs, workers=workers)
    if "autoencoder" in arguments.stages:
        train_autoencoder(
            work / "codec", work / "autoencoder.pt", steps=arguments.autoencoder_steps, batch=8, device=device
        )
    if "latents" in arguments.stages:
        autoencoder = load_weights(build_autoencoder(), work / "autoencoder.pt").to(
            device, memory_format=torch.channels_last
        )
        encode_songs(work / "songs", work / "latents", autoencoder, device=device)
    if "transformer" in arguments.stages:
        fresh_nano(work / "nano")  # writes the tokenizers once, before several processes read them
        ranks = 1 if device.type == "cuda" else (os.cpu_count() or 1)
        rendezvous = work / "rendezvous"
        rendezvous.unlink(missing_ok=True)
        torch.multiprocessing.spawn(train_rank, (ranks, rendezvous, arguments), nprocs=ranks)
    if "export" in arguments.stages:
        export(work, arguments.assets)
    if "evaluate" in arguments.stages:
        evaluate(work, arguments.assets, clips_per_style=4, songs=14, write_card=True)


def train_rank(rank: int, ranks: int, rendezvous: Path, arguments: argparse.Namespace) -> None:
    """One of several processes that train the transformer together.

    On two cores, two processes of one thread each made 2,270 frames a second where one of two threads made 1,540:
    most of a step is many small operations, and threads wait for each other at each of them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if ranks > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{rendezvous.resolve()}", rank=rank, world_size=ranks)
    work, folder = arguments.work, arguments.work / "nano"
    book = SongBook(work / "songs", work / "latents", folder / "umt5-base", folder / "lyric_tokenizer" / "vocab.json")
    train_transformer(
        fresh_nano(folder), book, work / "transformer.pt", steps=arguments.transformer_steps, device=device,
        frames_per_step=arguments.frames_per_step, seconds=60 * arguments.transformer_minutes,
    )  # fmt: skip
    if ranks > 1:
        dist.destroy_process_group()


def fresh_nano(folder: Path) -> Nano:
    """Untrained networks, with the tokenizers in `folder` written where they are not there yet."""
    prompts, lyrics = folder / "umt5-base" / "tokenizer.json", folder / "lyric_tokenizer" / "vocab.json"
    if not prompts.exists():
        write_prompt_tokenizer(prompts.parent)
    if not lyrics.exists():
        write_lyric_tokenizer(lyrics)
    return build_nano(Tokenizer.from_file(str(prompts)).get_vocab(), Tokenizer.from_file(str(lyrics)).get_vocab_size())


def export(work: Path, assets: Path) -> None:
    """Put the averaged weights of all checkpoints, and the tokenizers, into the released layout."""
    for name in ("umt5-base", "lyric_tokenizer"):
        shutil.copytree(work / "nano" / name, assets / name, dirs_exist_ok=True)
    nano = load_weights(fresh_nano(work / "nano"), work / "transformer.pt")
    autoencoder = load_weights(build_autoencoder(), work / "autoencoder.pt")
    size = export_nano(assets, nano, autoencoder)
    print(f"{assets}: {size / 1e6:.1f} MB")
    if size > MAX_BYTES:
        raise SystemExit(f"the checkpoint has {size} bytes, more than the {MAX_BYTES} that the package may hold")


if __name__ == "__main__":
    main()
