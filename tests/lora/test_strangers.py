"""Files that nobody meant to write: whatever is in them, what comes is an adapter or an error in words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from acestep.errors import AceStepError
from acestep.lora import Adapter, Factors, attach, attached_names, detach, inspect_adapter, read_adapter
from acestep.lora.formats import FORMATS, save_adapter_file

SHAPES = {"a.to_q": (4, 6), "a.conv": (4, 6, 1), "b_c": (6, 4)}

modules = st.sampled_from(["a.to_q", "a.conv", "b_c", "a_to_q", "x", "a", "transformer.a.to_q", ""])
prefixes = st.sampled_from(["", "base_model.model.", "diffusion_model.", "lora_unet_", "lycoris_"])
PARTS = (
    *(f"lora_{side}.weight" for side in ("A", "B", "A.default", "down", "up", "mid")),
    *(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    *("alpha", "dora_scale", "lora_magnitude_vector", "weight", "bias", "lora_B.bias"),
)
sides = st.sampled_from([0, 1, 2, 3, 4, 6])
tensors = st.builds(
    lambda shape, dtype, value: torch.full(shape, value).to(dtype),
    st.lists(sides, max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.float8_e4m3fn]),
    st.sampled_from([0.0, 1.0, -2.5, float("nan"), float("inf")]),
)
# Most of what is drawn fits nothing, so some of it lies over files that would be fine without.
GOOD: list[dict[str, torch.Tensor]] = [
    {},
    {"a.to_q.lora_A.weight": torch.ones(2, 6), "a.to_q.lora_B.weight": torch.ones(4, 2)},
    {"lora_unet_a_conv.lora_down.weight": torch.ones(2, 6, 1), "lora_unet_a_conv.lora_up.weight": torch.ones(4, 2, 1)},
    {"lycoris_a_to_q.lokr_w1": torch.ones(2, 2), "lycoris_a_to_q.lokr_w2": torch.ones(2, 3)},
    {
        f"lycoris_b_c.hada_w{n}_{side}": torch.ones(shape)
        for n in "12"
        for side, shape in (("a", (6, 2)), ("b", (2, 4)))
    },
]
names = st.builds("{}{}.{}".format, prefixes, modules, st.sampled_from(PARTS))
files = st.builds(lambda good, noise: good | noise, st.sampled_from(GOOD), st.dictionaries(names, tensors, max_size=8))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
configs = json_values | st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("r", "lora_alpha", "use_rslora", "alpha_pattern", "rank_pattern"), json_values),
)
relaxed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(found=files, known=st.booleans(), rank=st.sampled_from([None, 1, 3]))
def test_any_tensors_under_any_names_are_an_adapter_or_an_error_in_words(
    tmp_path: Path, found: dict[str, torch.Tensor], known: bool, rank: int | None
):
    save_file(found, tmp_path / "x.safetensors")
    try:
        adapter = read_adapter(tmp_path / "x.safetensors", SHAPES if known else None, rank=rank)
    except AceStepError:
        return
    for module, factors in adapter.factors.items():
        assert factors.fits(SHAPES[module] if known else factors.delta_shape())
        assert factors.rank > 0
    for chosen in FORMATS.values():
        try:
            save_adapter_file(tmp_path / "out.safetensors", adapter, chosen)
        except AceStepError:
            continue


@relaxed
@given(found=files, base=st.sampled_from([None, "nano"]))
def test_any_tensors_under_any_names_can_be_inspected(tmp_path: Path, found: dict[str, torch.Tensor], base: str | None):
    save_file(found, tmp_path / "x.safetensors")
    try:
        told = inspect_adapter(tmp_path / "x.safetensors", base=base).as_dict()
    except AceStepError:
        return
    json.dumps(told, allow_nan=False)


@relaxed
@given(config=configs, in_header=st.booleans())
def test_any_config_gives_a_strength_or_an_error_in_words(tmp_path: Path, config: Any, in_header: bool):
    (tmp_path / "adapter_config.json").unlink(missing_ok=True)
    found = {"a.to_q.lora_A.weight": torch.ones(2, 6), "a.to_q.lora_B.weight": torch.ones(4, 2)}
    text = json.dumps(config)
    save_file(found, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": text} if in_header else None)
    if not in_header:
        (tmp_path / "adapter_config.json").write_text(text)
    try:
        adapter = read_adapter(tmp_path, SHAPES)
    except AceStepError:
        return
    assert adapter.factors["a.to_q"].delta().isfinite().all()


@pytest.mark.parametrize("where", ["header", "config"])
def test_json_nested_without_end_is_an_error_in_words(tmp_path: Path, where: str):
    deep = "[" * 200_000
    found = {"a.to_q.lora_A.weight": torch.ones(2, 6), "a.to_q.lora_B.weight": torch.ones(4, 2)}
    save_file(
        found, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": deep} if where == "header" else None
    )
    if where == "config":
        (tmp_path / "adapter_config.json").write_text(deep)
    with pytest.raises(AceStepError):
        read_adapter(tmp_path, SHAPES)


@settings(max_examples=50, deadline=None)
@given(name=st.text(min_size=1, max_size=30))
def test_an_adapter_may_have_any_name_at_all_on_the_network(name: str):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    attach(network, Adapter({"0": Factors(torch.ones(1, 3), torch.ones(2, 1))}), name=name)
    assert attached_names(network) == [name]
    detach(network, name)
    assert type(network[0]) is torch.nn.Linear
