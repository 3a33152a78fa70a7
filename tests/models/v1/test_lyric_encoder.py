"""The lyric encoder against the released implementation's numbers."""

import pytest
import torch

from acestep.models.v1 import lyric_encoder
from acestep.models.v1.lyric_encoder import LyricEncoder, align_offsets, relative_positions
from reference_data import load_golden
from tiny_checkpoints import assert_close, load_transformer


@pytest.fixture(scope="module")
def golden():
    return load_golden("tiny/goldens/lyric_encoder.safetensors")


@pytest.fixture(scope="module")
def model():
    return load_transformer()


def test_every_layer_gives_the_released_states(model, golden):
    seen = {}
    for index, layer in enumerate(model.lyric_encoder.encoders):
        layer.register_forward_hook(lambda _, __, output, index=index: seen.update({f"mid.layer{index}": output}))
    tokens = model.lyric_embs(golden["in.lyric_token_idx"])
    states = model.lyric_encoder(tokens, golden["in.lyric_mask"])
    for index in range(6):
        assert_close(seen[f"mid.layer{index}"], golden[f"mid.layer{index}"])
    assert_close(states, golden["mid.encoder_out"])
    assert_close(model.lyric_proj(states), golden["out.lyric_hidden_states"])


def test_the_position_table_runs_from_the_farthest_past_to_the_farthest_future(golden):
    assert_close(relative_positions(21, 32, torch.device("cpu")).unsqueeze(0), golden["mid.pos_emb"])


def test_column_j_of_row_i_is_the_score_of_the_offset_i_minus_j():
    length = 4
    by_offset = torch.arange(length - 1, -length, -1.0).expand(1, 1, length, -1)
    steps = torch.arange(length)
    expected = (steps.unsqueeze(1) - steps.unsqueeze(0)).float()
    torch.testing.assert_close(align_offsets(by_offset)[0, 0], expected)


def test_dropped_lyrics_give_finite_states_and_gradients():
    torch.manual_seed(0)
    encoder = LyricEncoder(8, 16, heads=2, units=32, layers=2)
    tokens = torch.randn(2, 5, 8, requires_grad=True)
    states = encoder(tokens, torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]))
    states.sum().backward()
    assert states.isfinite().all()
    assert tokens.grad.isfinite().all()


def test_dropout_acts_in_train_mode_only():
    torch.manual_seed(0)
    encoder = LyricEncoder(8, 16, heads=2, units=32, layers=2)
    tokens, mask = torch.randn(1, 5, 8), torch.ones(1, 5)
    assert not torch.equal(encoder(tokens, mask), encoder(tokens, mask))
    encoder.eval()
    assert torch.equal(encoder(tokens, mask), encoder(tokens, mask))


def test_weakened_queries_change_the_layers_named_and_no_layer_before():
    torch.manual_seed(0)
    encoder = LyricEncoder(8, 16, heads=2, units=32, layers=3).eval()
    tokens, mask = torch.randn(1, 5, 8), torch.ones(1, 5)
    plain, weak = {}, {}
    for into, scale in ((plain, None), (weak, {1: 0.01})):
        handles = [
            layer.register_forward_hook(lambda _, __, out, i=i, into=into: into.update({i: out}))
            for i, layer in enumerate(encoder.encoders)
        ]
        encoder(tokens, mask, query_scale=scale)
        for handle in handles:
            handle.remove()
    assert torch.equal(plain[0], weak[0])
    assert not torch.allclose(plain[1], weak[1])


@pytest.mark.parametrize("limit", [1, 3 * 21 * 41, 1 << 40])
def test_heads_attended_in_groups_give_the_released_states(model, golden, monkeypatch, limit):
    monkeypatch.setattr(lyric_encoder, "SCORES_AT_ONCE", limit)
    tokens = model.lyric_embs(golden["in.lyric_token_idx"])
    assert_close(model.lyric_encoder(tokens, golden["in.lyric_mask"]), golden["mid.encoder_out"])
