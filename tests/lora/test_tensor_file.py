import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from acestep.errors import CheckpointError
from acestep.lora.tensor_file import is_finite, open_tensor_file


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end], **changes}


def test_a_header_tells_shapes_and_metadata_and_tensors_come_on_demand(tmp_path: Path):
    tensors = {"a.x": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"who": "me"})
    file = open_tensor_file(tmp_path / "a.safetensors")
    assert {name: (found.dtype, found.shape) for name, found in file.entries.items()} == {
        "a.x": ("F32", (2, 3)),
        "b": ("BF16", (2,)),
    }
    assert file.metadata == {"who": "me"}
    assert torch.equal(file.read(["a.x"])["a.x"], tensors["a.x"])
    assert set(file.read()) == set(tensors)


BAD = {
    "overlaps": ({"a": entry(0, 8), "b": entry(4, 12)}, 12),
    "gap": ({"a": entry(0, 8), "b": entry(12, 16)}, 16),
    "cut off": ({"a": entry(0, 8)}, 4),
    "belong to no tensor": ({"a": entry(0, 8)}, 12),
    "two entries named": (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}', 4),
    "needs others": ({"a": entry(0, 8, shape=[3])}, 8),
    "cannot be": ({"a": entry(0, 8, shape=[-2])}, 8),
    "says too little": ({"a": {"dtype": "F32"}}, 0),
    "no JSON": (b"{", 0),
    "is a list": ([], 0),
    "not texts": ({"__metadata__": {"a": 1}}, 0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_header_that_does_not_hold_together_is_refused_in_words(tmp_path: Path, message: str):
    header, size = BAD[message]
    with pytest.raises(CheckpointError, match=message):
        open_tensor_file(write(tmp_path / "x.safetensors", header, bytes(size)))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "a\\b", "a..b", "C:evil", "a\nb", "a\x1b[31m", "x" * 600])
def test_names_with_tricks_in_them_are_refused(tmp_path: Path, name: str):
    with pytest.raises(CheckpointError, match="no module's name"):
        open_tensor_file(write(tmp_path / "x.safetensors", {name: entry(0, 4)}, bytes(4)))


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 50_000_000))
        file.truncate(60_000_000)
    with pytest.raises(CheckpointError, match="50 MB"):
        open_tensor_file(path)


def test_a_header_nested_too_deep_is_an_error_and_no_crash(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no JSON"):
        open_tensor_file(write(tmp_path / "x.safetensors", b"[" * 100_000))


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_pickle_under_another_name_is_named_as_one(tmp_path: Path, protocol: int):
    path = tmp_path / "x.safetensors"
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=protocol == 0)
    with pytest.raises(CheckpointError, match="pickle"):
        open_tensor_file(path)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_at_all_do_more_than_raise_our_error(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(data)
    try:
        open_tensor_file(path)
    except CheckpointError:
        return
    assert json.loads(data[8:]) is not None


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(min_value=0, max_value=400))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    save_file({"a.b": torch.ones(20), "c": torch.ones(5)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(CheckpointError):
        open_tensor_file(path)


def test_infinity_and_nan_are_found_in_every_dtype():
    for dtype in (torch.float32, torch.bfloat16, torch.float8_e5m2):
        good = torch.ones(3).to(dtype)
        assert is_finite(good)
        assert not is_finite(torch.tensor([1.0, float("nan")]).to(dtype))
