from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acestep.errors import CheckpointError
from acestep.families.checkpoint import fingerprint, load_weights, read_config, read_shapes


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def saved(tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    tensors: dict[str, torch.Tensor | None] = {**small_network().state_dict(), **changes}
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def test_a_meta_network_is_filled(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with torch.device("meta"):
        network = small_network()
    load_weights(network, path)
    for name, tensor in small_network().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_weights_are_cast_while_they_are_read(tmp_path: Path) -> None:
    network = small_network()
    load_weights(network, saved(tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_all_misfits_are_listed_and_nothing_is_changed(tmp_path: Path) -> None:
    path = saved(
        tmp_path, **{"0.bias": None, "1.weight": torch.zeros(5), "extra": torch.zeros(1), "unread": torch.zeros(1)}
    )
    network = small_network()
    before = fingerprint(network)
    with pytest.raises(CheckpointError) as raised:
        load_weights(network, path, unread={"unread"})
    message = str(raised.value)
    assert "1 missing (0.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "1.weight is [5], expected [4]" in message
    assert fingerprint(network) == before


def test_shapes_come_from_the_header(tmp_path: Path) -> None:
    assert read_shapes(saved(tmp_path))["0.weight"] == (4, 3)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        load_weights(small_network(), path)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_config_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(path)


def test_the_fingerprint_is_that_of_the_released_precision() -> None:
    network = small_network()
    expected = fingerprint(small_network().to(torch.bfloat16))
    assert fingerprint(network) == expected
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert fingerprint(network) != expected
