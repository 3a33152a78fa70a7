from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.datasets import prepare_dataset
from acestep.datasets.augmentation import Augmentation
from acestep.datasets.latent_cache import LatentCache
from acestep.datasets.latent_dataset import LatentDataset, StoredStates
from acestep.datasets.representation_encoder import RepresentationEncoder
from acestep.datasets.representation_targets import load_encoders, mono, stored_form, with_targets
from acestep.diffusion.alignment import mean_alignment_losses
from acestep.errors import DatasetError, MissingWeightsError
from acestep.families.v1 import V1Family
from small_checkpoint import make_checkpoint
from small_encoder import SOURCE, write_encoder
from small_family import SmallFamily, write_dataset, write_tone

RATE = SmallFamily.latent_rate


class CountingEncoder(RepresentationEncoder):
    encoded = 0

    def encode(self, audio: Tensor) -> Tensor:
        self.encoded += 1
        return super().encode(audio)


@pytest.fixture
def encoder(tmp_path: Path) -> CountingEncoder:
    loaded = CountingEncoder.load(SOURCE, folder=write_encoder(tmp_path / "encoder"))
    assert isinstance(loaded, CountingEncoder)
    return loaded


def prepared(root: Path, *, window_s: float = 1.0) -> tuple[LatentDataset, dict[str, Path]]:
    dataset = prepare_dataset(write_dataset(root, 3), SmallFamily(), max_duration_s=window_s)
    return dataset, {track.content: root / "audio" / track.name for track in dataset.tracks}


def test_a_window_hears_what_the_encoder_hears_there(tmp_path: Path, encoder: CountingEncoder) -> None:
    dataset, recordings = prepared(tmp_path / "data")
    with_all = with_targets(dataset, recordings, [encoder], LatentCache(tmp_path / "cache"), latent_rate=RATE)
    batch = with_all.batch([0, 2])
    assert batch.starts != (0, 0)
    for position, index in enumerate((0, 2)):
        stored = with_all.tracks[index].targets[0]
        whole = stored.window(0, dataset.tracks[index].frames)
        first = round(batch.starts[position] / RATE * 49)
        assert torch.equal(batch.targets[0][position], whole[first : first + len(batch.targets[0][position])])
        # One second less the part of a latent frame that a window of whole frames lacks.
        assert 44 <= len(batch.targets[0][position]) <= 49


def test_windows_beside_each_other_share_no_state_and_leave_none_out(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path)
    path = cache.path("representations", number=1)
    cache.store(path, {"states": torch.arange(100.0).unsqueeze(1)})
    stored = StoredStates(path, per_frame=4.6)
    assert torch.cat([stored.window(start, 5) for start in range(0, 25, 5)]).flatten().tolist() == list(range(100))


@pytest.mark.parametrize(("start", "frames"), [(0, 1), (24, 1), (300, 10)])
def test_every_window_has_a_state(tmp_path: Path, start: int, frames: int) -> None:
    cache = LatentCache(tmp_path)
    path = cache.path("representations", number=1)
    cache.store(path, {"states": torch.ones(7, 2)})
    assert len(StoredStates(path, per_frame=0.3).window(start, frames)) >= 1


def test_a_recording_is_heard_once_until_the_encoder_changes(tmp_path: Path, encoder: CountingEncoder) -> None:
    dataset, recordings = prepared(tmp_path / "data")
    cache = LatentCache(tmp_path / "cache")
    first = with_targets(dataset, recordings, [encoder], cache, latent_rate=RATE)
    assert with_targets(dataset, recordings, [encoder], cache, latent_rate=RATE) == first
    assert encoder.encoded == 3
    next(encoder._model.parameters()).add_(1)
    changed = with_targets(dataset, recordings, [encoder], cache, latent_rate=RATE)
    assert encoder.encoded == 6
    assert changed.tracks[0].targets != first.tracks[0].targets


def test_what_is_stored_has_the_losses_of_what_was_heard() -> None:
    generator = torch.Generator().manual_seed(0)
    states = 300 * torch.randn(40, 64, generator=generator)
    prediction = [torch.randn(1, 9, 64, generator=generator)]
    exact, stored = (mean_alignment_losses(prediction, [[item]]) for item in (states, stored_form(states)))
    torch.testing.assert_close(stored, exact, rtol=1e-4, atol=1e-5)


def test_stereo_is_heard_as_the_mean_of_its_channels() -> None:
    blocks = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0], [7.0]])]
    assert mono(blocks).tolist() == [2.0, 3.0, 6.0]
    assert mono([]).tolist() == []


def test_a_recording_that_has_gone_is_named(tmp_path: Path, encoder: CountingEncoder) -> None:
    dataset, recordings = prepared(tmp_path / "data")
    cache = LatentCache(tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"track_000\.wav has no recording"):
        with_targets(dataset, {}, [encoder], cache, latent_rate=RATE)
    (tmp_path / "data/audio/track_001.wav").unlink()
    with pytest.raises(DatasetError, match=r"track_001\.wav"):
        with_targets(dataset, recordings, [encoder], cache, latent_rate=RATE)


def test_targets_that_have_gone_from_the_cache_are_told(tmp_path: Path, encoder: CountingEncoder) -> None:
    dataset, recordings = prepared(tmp_path / "data")
    stored = with_targets(dataset, recordings, [encoder], LatentCache(tmp_path / "cache"), latent_rate=RATE)
    stored.tracks[0].targets[0].path.unlink()
    with pytest.raises(DatasetError, match="prepare the dataset again"):
        stored.batch([0])


def test_a_base_whose_encoders_are_not_here_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    family = V1Family.load(make_checkpoint(tmp_path / "tiny"))
    with pytest.raises(MissingWeightsError, match=r"MERT-v1-330M.*hf download"):
        load_encoders(family)


def test_the_tiny_v1_is_trained_towards_what_two_encoders_hear(tmp_path: Path) -> None:
    family = V1Family.load(make_checkpoint(tmp_path / "tiny"))
    folders = {s.name: write_encoder(tmp_path / s.name, width=s.width) for s in family.representation_sources}
    encoders = load_encoders(family, folders=folders)
    root = tmp_path / "data"
    write_tone(root / "audio" / "a.wav", 7.0)
    (root / "metadata.csv").write_text("filename,prompt\na.wav,drone\n")
    dataset = prepare_dataset(root, family, max_duration_s=4.0)
    recordings = {track.content: root / "audio" / track.name for track in dataset.tracks}
    with_all = with_targets(
        dataset, recordings, encoders, LatentCache(tmp_path / "cache"), latent_rate=family.latent_rate
    )
    batch = with_all.batch([0])
    # MERT hears 374 states in five seconds, mHuBERT 50 a second but for the first layers' edge.
    assert [len(target[0]) for target in batch.targets] == [pytest.approx(4 * rate, abs=8) for rate in (74.8, 49.97)]
    latents = batch.latents.requires_grad_()
    _, predictions = family.velocity_with_alignment(latents, torch.tensor([0.5]), batch.conditioning)
    losses = mean_alignment_losses(predictions, batch.targets)
    losses.sum().backward()
    assert losses.shape == (1,)
    assert latents.grad is not None
    assert latents.grad.abs().max() > 0


def test_a_changed_copy_hears_itself(tmp_path: Path, encoder: CountingEncoder) -> None:
    root = write_dataset(tmp_path / "data", 1)
    dataset = prepare_dataset(root, SmallFamily(), max_duration_s=1.0, augmentation=Augmentation(variants=1))
    recordings = {dataset.tracks[0].content: root / "audio" / dataset.tracks[0].name}
    track = with_targets(dataset, recordings, [encoder], LatentCache(tmp_path / "cache"), latent_rate=RATE).tracks[0]
    tempo = track.variants[0].change.tempo
    heard, whole = (version.targets[0].window(0, version.frames) for version in (track.variants[0], track))
    assert len(heard) / len(whole) == pytest.approx(1 / tempo, abs=0.05)
    assert encoder.encoded == 2
    again = replace(dataset, epoch=next(e for e in range(99) if dataset.at_epoch(e).heard(0) != dataset.tracks[0]))
    ready = with_targets(again, recordings, [encoder], LatentCache(tmp_path / "cache"), latent_rate=RATE)
    assert encoder.encoded == 2
    assert ready.batch([0]).targets[0][0].shape[-1] == whole.shape[-1]
