import math

import pytest
import torch

from acestep.datasets import LatentDataset, prepare_dataset
from acestep.diffusion.flow_matching import logit_normal_sigmas
from acestep.diffusion.schedules import training_sigmas
from acestep.errors import InputError
from acestep.training.results import ValidationResult
from acestep.training.validation import LEVELS, HeldOutLoss, held_out_loss, paired_change, quantile_sigmas
from small_family import SmallFamily, write_dataset

FAMILY = SmallFamily()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LatentDataset:
    root = tmp_path_factory.mktemp("held_out")
    return prepare_dataset(write_dataset(root, tracks=5), FAMILY, max_duration_s=2)


def test_the_same_model_gets_the_same_loss_whatever_the_epoch(dataset: LatentDataset):
    assert held_out_loss(FAMILY, dataset, seed=0) == held_out_loss(FAMILY, dataset.at_epoch(7), seed=0)
    assert held_out_loss(FAMILY, dataset, seed=0) != held_out_loss(FAMILY, dataset, seed=1)


def test_looking_leaves_torchs_random_numbers_alone(dataset: LatentDataset):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    held_out_loss(FAMILY, dataset, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tracks_noise_does_not_depend_on_the_others(dataset: LatentDataset):
    alone = LatentDataset(dataset.tracks[:1], dataset.crop_frames)
    name = dataset.tracks[0].name
    assert held_out_loss(FAMILY, alone, seed=0).losses[name] == held_out_loss(FAMILY, dataset, seed=0).losses[name]
    assert held_out_loss(FAMILY, alone, seed=0).standard_error is None
    assert held_out_loss(FAMILY, alone, seed=0).by_sigma[0].standard_error is None


@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3]], [[4], [3, 0, 1], [2], []]])
def test_shares_of_the_tracks_merge_to_the_whole_bit_for_bit(dataset: LatentDataset, shares: list[list[int]]):
    whole = held_out_loss(FAMILY, dataset, seed=0)
    parts = [held_out_loss(FAMILY, dataset, seed=0, tracks=share) for share in shares]
    merged = HeldOutLoss.merged(parts)
    assert merged == whole
    assert list(merged.losses) == list(whole.losses)
    assert (merged.mean, merged.standard_error, merged.by_sigma) == (whole.mean, whole.standard_error, whole.by_sigma)


def test_shares_that_overlap_or_are_of_other_levels_do_not_merge(dataset: LatentDataset):
    one = held_out_loss(FAMILY, dataset, seed=0, tracks=[0, 1])
    other = held_out_loss(FAMILY, dataset, seed=0, tracks=[1, 2])
    with pytest.raises(InputError, match="validated twice"):
        HeldOutLoss.merged([one, other])
    with pytest.raises(InputError, match="of different runs"):
        HeldOutLoss.merged([one, held_out_loss(FAMILY, dataset, seed=0, tracks=[2], sigmas=torch.tensor([0.5]))])


def test_smaller_passes_give_the_same_losses(dataset: LatentDataset):
    whole, small = (held_out_loss(FAMILY, dataset, seed=0, max_tokens=tokens) for tokens in (10_000, 1))
    for track, losses in whole.losses.items():
        assert small.losses[track] == pytest.approx(losses, rel=1e-5)


def test_a_pass_holds_no_more_than_it_may(dataset: LatentDataset, monkeypatch: pytest.MonkeyPatch):
    family, rows = SmallFamily(), []
    velocity = family.velocity

    def counted(latents, sigmas, conditioning):  # type: ignore[no-untyped-def]
        rows.append(len(latents))
        return velocity(latents, sigmas, conditioning)

    monkeypatch.setattr(family, "velocity", counted)
    frames, words = dataset.window(0), 3
    held_out_loss(family, dataset, seed=0, tracks=[0], max_tokens=4 * (frames + words + 1))
    assert rows == [3, 3]  # the most that fit are four, and two even passes are as many as four and two


def test_the_mean_is_over_tracks_with_its_standard_error_in_all_and_by_level(dataset: LatentDataset):
    loss = held_out_loss(FAMILY, dataset, seed=0)
    table = torch.tensor(list(loss.losses.values()), dtype=torch.float64)
    assert table.shape == (5, LEVELS)
    assert loss.mean == pytest.approx(float(table.mean()))
    assert loss.standard_error == pytest.approx(float(table.mean(1).std() / math.sqrt(5)))
    for column, level in zip(table.T, loss.by_sigma, strict=True):
        assert level.val_loss == pytest.approx(float(column.mean()))
        assert level.standard_error == pytest.approx(float(column.std() / math.sqrt(5)))
    assert [level.sigma for level in loss.by_sigma] == sorted(loss.sigmas, reverse=True)


def test_the_mean_over_the_levels_is_that_over_many_drawn_ones():
    levels = quantile_sigmas(64, shift=3.0)
    normals = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    drawn = logit_normal_sigmas(normals, training_sigmas(shift=3.0))
    assert float(levels.square().mean()) == pytest.approx(float(drawn.square().mean()), rel=5e-3)


def test_a_loss_that_is_no_number_comes_out_as_such(dataset: LatentDataset):
    family = SmallFamily()
    with torch.no_grad():
        family.network.final_layer.scale_shift_table.fill_(math.nan)
    loss = held_out_loss(family, dataset, seed=0)
    assert math.isnan(loss.mean)
    assert math.isnan(loss.standard_error or 0)
    assert all(math.isnan(level.val_loss) for level in loss.by_sigma)


def result(step: int, by_track: dict[str, float]) -> ValidationResult:
    return ValidationResult(step, step, sum(by_track.values()) / len(by_track), 0.1, by_track)


def test_a_change_smaller_than_the_tracks_differ_is_seen_in_pairs():
    generator = torch.Generator().manual_seed(0)
    easy_and_hard = torch.linspace(0.2, 1.0, 8).tolist()
    noise = (0.0005 * torch.randn(8, generator=generator)).tolist()
    before = {f"{i}.wav": value for i, value in enumerate(easy_and_hard)}
    after = {f"{i}.wav": value - 0.002 + noise[i] for i, value in enumerate(easy_and_hard)}
    change = paired_change(result(0, before), result(1, {**after, "new.wav": 9.0}))
    assert change.tracks == 8
    assert change.mean == pytest.approx(-0.002, abs=0.0006)
    assert change.p_value is not None
    assert change.p_value < 0.001


def test_where_nothing_changes_few_changes_are_called_significant():
    generator = torch.Generator().manual_seed(0)
    false_alarms = 0
    for _ in range(400):
        before, after = torch.randn(2, 6, generator=generator).tolist()
        change = paired_change(
            result(0, {str(i): v for i, v in enumerate(before)}), result(1, {str(i): v for i, v in enumerate(after)})
        )
        false_alarms += change.p_value is not None and change.p_value < 0.05
    assert false_alarms / 400 == pytest.approx(0.05, abs=0.03)


def test_one_common_track_has_no_error_and_none_is_refused():
    change = paired_change(result(0, {"a": 1.0}), result(1, {"a": 0.5, "b": 3.0}))
    assert (change.mean, change.standard_error, change.p_value, str(change)) == (-0.5, None, None, "-0.5000")
    assert paired_change(result(0, {"a": 1.0, "b": 1.0}), result(1, {"a": 1.0, "b": 1.0})).p_value == 1.0
    with pytest.raises(InputError, match="no track in common"):
        paired_change(result(0, {"a": 1.0}), result(1, {"b": 1.0}))
