from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from acestep.errors import CheckpointError, MissingWeightsError
from acestep.evaluation import deep_embeddings
from acestep.evaluation.deep_embeddings import (
    DeepEmbeddingListener,
    DeepEncoder,
    deep_listeners,
    embed_song,
    load_clap,
    load_mert,
)
from acestep.evaluation.evaluation import evaluate_lora
from evaluation.fake_pipeline import BASE_SLOPE_DB, BrightnessPipeline
from evaluation.songs import RATE, coloured_noise
from evaluation.test_evaluation import PROMPTS
from small_encoder import SOURCE, write_encoder


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLAP of the released one's form, a thousandth of its size."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    audio = {
        "hidden_size": 16, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2],
        "num_hidden_layers": 2, "projection_dim": 8,
    }  # fmt: skip
    text = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20,
        "projection_dim": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clap")
    ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=8)).save_pretrained(folder)
    ClapFeatureExtractor().save_pretrained(folder)
    return folder


def test_clap_gives_a_unit_vector_each_ten_seconds_and_the_same_each_time(clap: Path) -> None:
    encoder = load_clap(clap)
    song = coloured_noise(-6.0, seed=1, seconds=20)
    windows = embed_song(encoder, song, RATE)
    assert windows.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(windows, axis=1), 1.0, rtol=1e-9)
    np.testing.assert_array_equal(windows, embed_song(load_clap(clap), song, RATE))
    first = embed_song(encoder, song[:, : 10 * RATE], RATE)
    np.testing.assert_allclose(windows[0], first[0], atol=1e-3)
    assert embed_song(encoder, song[:, : 3 * RATE], RATE).shape == (1, 8)


def test_mert_gives_a_vector_each_half_window(tmp_path: Path) -> None:
    encoder = load_mert(write_encoder(tmp_path / "mert"), source=SOURCE)
    windows = embed_song(encoder, coloured_noise(-6.0, seed=1, seconds=10), RATE)
    assert windows.shape == (3, 16)


def test_absent_weights_are_named_with_the_command_that_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for load in (load_clap, load_mert):
        with pytest.raises(MissingWeightsError, match="hf download"):
            load()


def test_a_pickle_and_another_model_are_refused(clap: Path, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(MissingWeightsError, match=r"model\.safetensors"):
        load_clap(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((clap / "model.safetensors").read_bytes()[:100])
    (tmp_path / "preprocessor_config.json").write_text((clap / "preprocessor_config.json").read_text())
    (tmp_path / "config.json").write_text((clap / "config.json").read_text())
    with pytest.raises(CheckpointError, match="no CLAP model"):
        load_clap(tmp_path)


def brightness(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """An encoder that hears one thing."""
    parts = np.split(audio[: len(audio) // 4 * 4], 4)
    return np.array([[np.log(np.square(np.diff(part)).mean() / np.square(part).mean()), 0.0] for part in parts])


def test_songs_as_bright_as_the_recordings_are_nearer_by_an_encoder_that_hears_brightness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [coloured_noise(BASE_SLOPE_DB + 6, seed=90 + n, seconds=5).astype(np.float32) for n in range(3)]
    monkeypatch.setattr(deep_embeddings, "read_frames", lambda path, *_: torch.full((1, 1, 1), float(path)))
    pipeline = BrightnessPipeline(6.0)
    pipeline.family.sample_rate, pipeline.family.latent_frames = RATE, lambda seconds: 1
    pipeline.family.decode_latents = lambda latents: torch.from_numpy(songs[int(latents)]).unsqueeze(0)
    held_out = SimpleNamespace(tracks=[SimpleNamespace(latents=str(n), frames=1) for n in range(3)])
    listener = DeepEmbeddingListener("Ear", lambda: DeepEncoder("Ear", RATE, brightness), held_out)
    evaluation = evaluate_lora(
        pipeline, "my_lora", PROMPTS, folder=tmp_path, strengths=(-1.0, 1.0), seeds=(1,), duration_s=5.0,
        listeners=[listener],
    )  # fmt: skip
    (finding,) = evaluation.findings
    assert finding.says == "Nearer to the style beyond doubt at 1."
    assert [figure["verdict"] for figure in finding.details["figures"]] == [
        "further from the style",
        "nearer to the style",
    ]


def test_without_a_dataset_or_weights_they_are_left_out_and_named(tmp_path: Path) -> None:
    evaluation = evaluate_lora(
        BrightnessPipeline(6.0), "my_lora", PROMPTS[:1], folder=tmp_path, seeds=(1,), duration_s=5.0,
        listeners=deep_listeners(None),
    )  # fmt: skip
    assert {"CLAP embeddings", "MERT embeddings"} <= {measure for measure, _ in evaluation.left_out}
