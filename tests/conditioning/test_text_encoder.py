from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from acestep.conditioning.text_encoder import TextEncoder
from acestep.errors import CheckpointError, InputError, MissingWeightsError
from reference_data import load_golden, reference_path

GOLDEN = "tiny/goldens/text_encoder.safetensors"
WORDS = ["<pad>", "</s>", "<unk>", "soft", "loud", "piano", "drums"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_golden(GOLDEN)


@pytest.fixture(scope="module")
def golden_texts() -> tuple[list[str], str]:
    with safe_open(reference_path(GOLDEN), "pt") as file:
        metadata = file.metadata()
    return json.loads(metadata["texts"]), metadata["long_text"]


@pytest.fixture(scope="module")
def reference_encoder() -> TextEncoder:
    return TextEncoder.from_folder(reference_path("tiny/checkpoint/umt5-base"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "umt5-base", layers=3)


def write_encoder(folder: Path, *, layers: int) -> Path:
    """A random encoder with a vocabulary of seven words, as a checkpoint folder holds it."""
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=4, d_ff=24, num_layers=layers, num_heads=2, dropout_rate=0.0
    )
    encoder = UMT5EncoderModel(config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir()
    config.save_pretrained(folder)
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if name != "encoder.embed_tokens.weight"}
    save_file(weights, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def assert_close(ours: Tensor, golden: Tensor) -> None:
    assert ours.shape == golden.shape
    torch.testing.assert_close(ours, golden, rtol=0, atol=2e-5 * golden.abs().max().item())


def test_states_and_mask_are_the_released_encoders(
    reference_encoder: TextEncoder, golden: dict[str, Tensor], golden_texts: tuple[list[str], str]
):
    states, mask = reference_encoder.encode(golden_texts[0])
    assert_close(states, golden["out.last_hidden_state"])
    assert torch.equal(mask, golden["out.attention_mask"])


def test_weakened_states_are_the_released_null_states(
    reference_encoder: TextEncoder, golden: dict[str, Tensor], golden_texts: tuple[list[str], str]
):
    states, mask = reference_encoder.encode(golden_texts[0], weaken_queries=True)
    assert_close(states, golden["out.null_last_hidden_state_tau0.01_blocks8_9"])
    assert torch.equal(mask, golden["out.attention_mask"])


def test_a_long_prompt_is_cut_as_the_released_encoder_cuts_it(
    reference_encoder: TextEncoder, golden: dict[str, Tensor], golden_texts: tuple[list[str], str]
):
    states, mask = reference_encoder.encode([golden_texts[1]])
    assert_close(states, golden["out.long.last_hidden_state"])
    assert torch.equal(mask, golden["out.long.attention_mask"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_those_of_the_network_in_transformers_at_any_distance(tmp_path: Path, dtype: torch.dtype):
    folder = write_encoder(tmp_path / "umt5-base", layers=3)
    theirs = UMT5EncoderModel(UMT5Config.from_pretrained(folder)).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    theirs.to(dtype)
    prompt = "soft piano loud drums " * 50
    encoder = TextEncoder.from_folder(folder, dtype=dtype)
    states, mask = encoder.encode([prompt, "drums"])
    ids, _ = encoder._batch([prompt, "drums"])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    assert states.shape == (2, 201, 16)
    tolerance = 2e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(states[0], expected[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(states[1, :2], expected[1, :2], rtol=0, atol=tolerance)


def test_an_encoder_of_another_build_is_refused_and_not_guessed_at(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "feed_forward_proj": "relu"}))
    with pytest.raises(CheckpointError, match=r"'relu'; only 'gated-gelu'"):
        TextEncoder.from_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is no text encoder's config"):
        TextEncoder.from_folder(folder)


def test_weakening_leaves_no_trace_even_between_threads(tmp_path: Path):
    encoder = TextEncoder.from_folder(write_encoder(tmp_path / "deep", layers=10))
    plain, _ = encoder.encode(["soft piano"])
    weak, _ = encoder.encode(["soft piano"], weaken_queries=True)
    assert (plain - weak).abs().max() > 1e-3
    kinds = [True, False] * 12
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda kind: encoder.encode(["soft piano"], weaken_queries=kind)[0], kinds))
    for kind, states in zip(kinds, results, strict=True):
        assert torch.equal(states, weak if kind else plain)


def test_a_shallow_encoder_encodes_but_cannot_be_weakened(folder: Path):
    encoder = TextEncoder.from_folder(folder)
    states, mask = encoder.encode(["soft piano", "drums"])
    assert states.shape == (2, 3, encoder.dim)
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    with pytest.raises(InputError, match="too shallow for ERG: it has 3 blocks"):
        encoder.encode(["soft piano"], weaken_queries=True)


def test_padding_does_not_change_a_prompt(folder: Path):
    encoder = TextEncoder.from_folder(folder)
    alone, _ = encoder.encode(["drums"])
    beside, mask = encoder.encode(["drums", "soft loud piano drums"])
    torch.testing.assert_close(beside[:1][mask[:1].bool()], alone[0], rtol=1e-5, atol=1e-6)


def test_a_prompt_over_the_limit_is_refused_with_both_numbers(folder: Path):
    encoder = TextEncoder.from_folder(folder)
    encoder.check_length("soft " * 255)
    assert encoder.count_tokens("soft " * 255) == 256
    with pytest.raises(InputError, match=r"257 tokens.*at most 256"):
        encoder.check_length("soft " * 256)


def test_no_prompt_is_an_input_error(folder: Path):
    with pytest.raises(InputError, match="no prompt"):
        TextEncoder.from_folder(folder).encode([])


def test_the_weights_take_the_dtype_that_is_asked_for(folder: Path):
    states, _ = TextEncoder.from_folder(folder, dtype=torch.bfloat16).encode([""])
    assert states.dtype == torch.bfloat16
    assert states.shape == (1, 1, 16)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_with_a_file_missing_is_refused_by_name(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(MissingWeightsError, match=name):
        TextEncoder.from_folder(folder)


def test_weights_that_do_not_fit_the_config_are_refused_and_never_made_up(folder: Path):
    path = folder / "model.safetensors"
    weights = load_file(path)
    removed = weights.pop("encoder.block.1.layer.0.SelfAttention.q.weight")
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"block\.1\.layer\.0\.SelfAttention\.q"):
        TextEncoder.from_folder(folder)
    save_file({**weights, "encoder.block.1.layer.0.SelfAttention.q.weight": removed[:2].clone()}, path)
    with pytest.raises(CheckpointError, match="size mismatch"):
        TextEncoder.from_folder(folder)
