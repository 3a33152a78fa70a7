from pathlib import Path

import pytest
import torch

from acestep.errors import InputError
from acestep.families.hub import V1_HUB_ID, find_checkpoint
from acestep.families.v1 import load_transformer
from acestep.lora import module_shapes
from acestep.lora.bases import base_shapes, guess_base
from acestep.lora.tensor_file import TensorEntry
from acestep.models.v1 import ACEStepTransformer, TransformerConfig
from small_checkpoint import make_checkpoint


def entries(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    return {name: TensorEntry("F32", shape, 0, 0) for name, shape in shapes.items()}


def test_the_released_models_shapes_are_those_of_its_network():
    with torch.device("meta"):
        network = ACEStepTransformer(
            TransformerConfig.from_dict({"num_layers": 24, "num_attention_heads": 20, "attention_head_dim": 128})
        )
    assert base_shapes("v1") == module_shapes(network)
    assert base_shapes(V1_HUB_ID) == base_shapes("v1")


def test_a_file_is_told_by_names_and_shapes_in_any_naming():
    for base, width in (("v1", 2560), ("nano", 256)):
        named = {
            "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight": (4, width),
            "lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight": (width, 4),
        }
        assert guess_base(entries(named)) == base
    assert guess_base(entries({"to_q.lora_A.weight": (4, 8), "to_q.lora_B.weight": (8, 4)})) is None


def test_a_checkpoints_folder_is_a_base_of_its_own(tmp_path: Path):
    folder = make_checkpoint(tmp_path / "mine")
    assert base_shapes(folder) == module_shapes(load_transformer(folder))
    assert base_shapes("nano") == module_shapes(load_transformer(find_checkpoint("nano")))


def test_a_base_that_is_none_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="no folder"):
        base_shapes(tmp_path / "nothing")
