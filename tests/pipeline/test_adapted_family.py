from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep import ACEStepPipeline
from acestep.errors import AceStepError, AdapterError, InputError, MissingWeightsError
from acestep.families.base import Conditioning
from acestep.lora import Adapter, AdapterMetadata, Factors, NoiseRange, Section, Strength, module_shapes, write_adapter
from acestep.pipeline import read_recipe
from acestep.pipeline.adapted_family import AdaptedFamily, LoraWish, lora_wishes
from small_adapter import nano_adapter
from small_family import SmallFamily

QUICK: dict[str, Any] = {"prompt": "lofi", "duration": 5, "steps": 3, "seed": 7}
CHORUS = Strength(0.01, (Section(2.0, 4.0, 0.03),), (NoiseRange(1.0, 0.9, 0.5),))


@pytest.fixture(scope="module")
def pipe() -> ACEStepPipeline:
    return ACEStepPipeline.from_pretrained("nano", device="cpu")


@pytest.fixture(autouse=True)
def _bare(request: pytest.FixtureRequest) -> Any:
    yield
    if "pipe" in request.fixturenames:
        request.getfixturevalue("pipe").unload_lora()


@pytest.fixture(scope="module")
def choir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("loras") / "choir", nano_adapter(seed=1))


@pytest.fixture(scope="module")
def drums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("loras") / "drums", nano_adapter(seed=2, dora=True))


def latents_of(pipe: ACEStepPipeline, **wishes: Any) -> Tensor:
    return pipe(**{**QUICK, **wishes}, output_type="latents")


def small_adapter(family: SmallFamily, *, seed: int, rank: int, **about: Any) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    modules = [
        name for name in module_shapes(family.network) if name.endswith(("to_q", "to_out.0", "inverted_conv.conv"))
    ]
    factors = {}
    for module in modules[seed % 2 :]:
        out, into, *kernel = module_shapes(family.network)[module]
        a = torch.randn(rank, into, *kernel, generator=generator)
        factors[module] = Factors(a, torch.randn(out, rank, *(1 for _ in kernel), generator=generator))
    return Adapter(factors, AdapterMetadata(**about))


def test_several_at_once_compute_what_dense_weights_with_their_sum_do(tmp_path: Path) -> None:
    family = SmallFamily()
    adapters = {name: small_adapter(family, seed=seed, rank=rank) for name, seed, rank in (("a", 1, 2), ("b", 2, 5))}
    weights = {"a": 0.7, "b": -0.3}
    family.to(dtype=torch.float64)
    dense = copy.deepcopy(family)
    for name, adapter in adapters.items():
        for module, factors in adapter.factors.items():
            weight = dense.network.get_submodule(module).get_parameter("weight")
            change = factors.b.double().flatten(1) @ factors.a.double().flatten(1)
            weight.data += weights[name] * change.reshape(weight.shape)
    model = AdaptedFamily(family)
    for name, adapter in adapters.items():
        model.load(write_adapter(tmp_path / name, adapter), weights[name])
    conditioning, latents = family.encode_prompt(["two words"], ["la"]), torch.randn(1, 8, 16, 12, dtype=torch.float64)
    conditioning, sigmas = conditioning.to("cpu", torch.float64), torch.tensor([0.4], dtype=torch.float64)

    def velocity(of: SmallFamily, given: Conditioning) -> Tensor:
        with torch.no_grad():
            return of.velocity(latents, sigmas, given)

    expected = velocity(dense, conditioning)
    torch.testing.assert_close(velocity(family, conditioning), expected, rtol=1e-9, atol=1e-9)
    model.unload("b")
    assert not torch.allclose(velocity(family, conditioning), expected, rtol=1e-3, atol=1e-3)


def test_changing_and_swapping_adapters_leaves_every_tensor_of_the_base_where_and_what_it_was(
    pipe: ACEStepPipeline, choir: Path, drums: Path
) -> None:
    network = pipe.family.network
    before = {name: (id(tensor), tensor.data_ptr(), tensor.clone()) for name, tensor in network.named_parameters()}
    bare = latents_of(pipe)

    def same(name: str, tensor: Tensor) -> bool:
        identity, place, values = before[name.replace(".base_layer.", ".")]
        return id(tensor) == identity and tensor.data_ptr() == place and torch.equal(tensor, values)

    first = pipe.load_lora(choir, 0.02)
    pipe.set_lora_weights({first: CHORUS})
    changed = latents_of(pipe)
    second = pipe.load_lora(drums, 0.02)
    pipe.unload_lora(first)
    assert list(pipe.loras) == [second] == ["drums"]
    of_base = {name: tensor for name, tensor in network.named_parameters() if ".lora_" not in name}
    assert len(of_base) == len(before)
    assert all(same(name, tensor) for name, tensor in of_base.items())
    pipe.unload_lora()
    assert all(same(name, tensor) for name, tensor in network.named_parameters())
    assert torch.equal(latents_of(pipe), bare)
    assert not torch.equal(changed, bare)


def test_a_strength_that_is_the_same_everywhere_is_its_number_bit_for_bit(pipe: ACEStepPipeline, choir: Path) -> None:
    name = pipe.load_lora(choir, 0.02)
    plain = latents_of(pipe)
    everywhere = Strength(0.5, (Section(0, 240, 0.04),), (NoiseRange(1, 0, 0.5),))
    pipe.set_lora_weights({name: everywhere})
    assert pipe.loras == {name: everywhere}
    assert torch.equal(latents_of(pipe), plain)
    pipe.set_lora_weights({name: 0.02})
    assert pipe.loras == {name: 0.02}
    assert torch.equal(latents_of(pipe), plain)


@pytest.mark.parametrize(
    ("task", "wishes"),
    [
        ("retake", {"duration": 5}),
        ("from_reference", {}),
        ("repaint", {"start_s": 1, "end_s": 3, "retake_seed": 1}),
        ("extend", {"right_s": 2, "retake_seed": 1}),
        ("edit", {"target_prompt": "techno"}),
    ],
)
def test_every_task_hears_strengths_that_change(
    pipe: ACEStepPipeline, choir: Path, task: str, wishes: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"prompt": "lofi", "steps": 3, "seed": 7, **wishes}
    if task == "retake":
        given["retake_seed"] = 1
    else:
        given["reference" if task == "from_reference" else "source"] = 0.1 * torch.sin(
            torch.arange(2 * 220500) / 30
        ).view(2, -1)

    def made(strength: float | Strength) -> Tensor:
        pipe.set_lora_weights({name: strength})
        return getattr(pipe, task)(**given).latents

    name = pipe.load_lora(choir)
    assert torch.equal(made(Strength(0.0, (Section(0, 240, 0.03),))), made(0.03))
    assert not torch.equal(made(CHORUS), made(0.03))


def test_a_song_that_was_stopped_in_a_section_leaves_the_plain_strength(pipe: ACEStepPipeline, choir: Path) -> None:
    name = pipe.load_lora(choir, 0.01)
    conditioning = pipe.family.encode_prompt(["lofi"], [""])
    noise = torch.randn(1, 8, 16, 20, generator=torch.Generator().manual_seed(0))

    def velocity() -> Tensor:
        with torch.no_grad():
            return pipe.family.velocity(noise, torch.tensor([0.5]), conditioning)

    plain = velocity()

    def stop(_step: int, _steps: int) -> None:
        raise KeyboardInterrupt

    pipe.set_lora_weights({name: CHORUS})
    with pytest.raises(KeyboardInterrupt):
        pipe(**QUICK, callback=stop)
    assert torch.equal(velocity(), plain)


def test_a_song_is_made_again_from_its_tags_with_sections_noise_ranges_and_raw_scale(
    pipe: ACEStepPipeline, choir: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "stränge.safetensors"
    module = "transformer_blocks.0.attn.to_v"
    out, into = module_shapes(pipe.family.network)[module]
    parts = {"lora_down.weight": torch.randn(4, into), "lora_up.weight": torch.randn(out, 4)}
    tensors = {f"diffusion_model.{module}.{name}": tensor for name, tensor in parts.items()}
    save_file({**tensors, f"diffusion_model.{module}.alpha": torch.tensor(2.0)}, raw)
    pipe.load_lora(choir, CHORUS)
    pipe.load_lora(raw, 0.1, raw_scale=True)
    song = pipe(**QUICK)
    recipe = read_recipe(song.save(tmp_path / "song.wav"))
    assert recipe["loras"] == [
        {"path": str(choir), "weight": 0.01, "sections": [[2.0, 4.0, 0.03]], "noise_ranges": [[1.0, 0.9, 0.5]]},
        {"path": str(raw), "weight": 0.1, "raw_scale": True},
    ]
    pipe.unload_lora()
    again = ACEStepPipeline.from_pretrained(recipe["model"], recipe["loras"], device="cpu")
    assert torch.equal(again(**recipe["params"]).audio, song.audio)
    # Half the alpha of its rank: as they lie the factors are twice as strong.
    pipe.load_lora(choir, CHORUS)
    pipe.load_lora(raw, 0.2)
    torch.testing.assert_close(latents_of(pipe), song.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_base_takes_lora_and_dora_and_is_itself_again(
    quantization: Any, choir: Path, drums: Path, tmp_path: Path
) -> None:
    pipe = ACEStepPipeline.from_pretrained("nano", device="cpu", quantization=quantization)
    bare = latents_of(pipe)
    pipe.load_lora(choir, CHORUS)
    one = latents_of(pipe)
    pipe.load_lora(drums, 0.02)
    both = pipe(**QUICK)
    assert both.recipe["quantization"] == quantization
    assert not torch.equal(one, bare)
    assert not torch.equal(both.latents, one)
    recipe = read_recipe(both.save(tmp_path / "song.flac"))
    kept = {"quantization": recipe["quantization"]}
    again = ACEStepPipeline.from_pretrained(recipe["model"], recipe["loras"], device="cpu", **kept)
    assert torch.equal(again(**recipe["params"]).audio, both.audio)
    pipe.unload_lora()
    assert torch.equal(latents_of(pipe), bare)


def test_an_unknown_precision_is_refused(pipe: ACEStepPipeline) -> None:
    with pytest.raises(InputError, match="choose one of int8, nf4"):
        ACEStepPipeline.from_pretrained("nano", device="cpu", quantization="int3")  # type: ignore[arg-type]


def test_without_a_weight_an_adapter_is_as_strong_as_its_file_recommends(tmp_path: Path) -> None:
    family = SmallFamily()
    model = AdaptedFamily(family)
    adapter = small_adapter(family, seed=1, rank=2, recommended_strength=0.6)
    path = write_adapter(tmp_path / "mild", adapter)
    assert model.loras[model.load(path)].weight == 0.6
    assert model.loras[model.load(path, 1.0)].weight == 1.0
    assert list(model.loras) == ["mild", "mild_2"]
    mad = tmp_path / "mad.safetensors"
    tensors = load_file(path / "pytorch_lora_weights.safetensors")
    save_file(tensors, mad, metadata={"acestep_adapter": '{"recommended_strength": 1e999}'})
    with pytest.raises(AdapterError, match="recommends a strength of inf; give a weight"):
        model.load(mad)
    assert model.load(mad, 0.5) == "mad"


def test_an_adapter_of_another_family_or_base_is_refused_with_both_names(tmp_path: Path, choir: Path) -> None:
    family = SmallFamily()
    model = AdaptedFamily(family)
    foreign = Adapter(small_adapter(family, seed=1, rank=2).factors, AdapterMetadata(family="v1.5"))
    with pytest.raises(AdapterError, match=r"made for v1\.5, this is small"):
        model.load(write_adapter(tmp_path / "foreign", foreign))
    with pytest.raises(AdapterError, match="made for nano, this is small"):
        model.load(choir)
    nameless = Adapter(nano_adapter().factors, AdapterMetadata())
    with pytest.raises(AdapterError, match="it was made for nano; the base model here is small"):
        model.load(write_adapter(tmp_path / "nameless", nameless))
    assert not model.loras


def test_an_adapter_of_other_weights_of_the_family_is_warned_of_once_and_in_the_recipe(
    pipe: ACEStepPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = AdapterMetadata(family="nano", base_model="my-nano", base_fingerprint="f00d")
    path = write_adapter(tmp_path / "sister", Adapter(nano_adapter().factors, about))
    with caplog.at_level(logging.WARNING):
        pipe.load_lora(path, 0.0)
        pipe.unload_lora()
        pipe.load_lora(path, 0.0)
    told = [record.getMessage() for record in caplog.records if "other nano weights (my-nano)" in record.getMessage()]
    assert len(told) == 1
    song = pipe(**QUICK)
    assert song.recipe["loras"] == [{"path": str(path), "weight": 0.0, "warning": told[0]}]
    assert lora_wishes(song.recipe["loras"]) == [LoraWish(str(path), 0.0)]


def test_a_section_that_the_song_never_reaches_is_told(
    pipe: ACEStepPipeline, choir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.load_lora(choir, Strength(0.0, (Section(32, 48, 1.0),)))
    with caplog.at_level(logging.WARNING):
        latents_of(pipe, steps=1)
    assert "choir has a section from 32 to 48 s, which this song of 4.9 s never reaches" in caplog.text


@pytest.mark.parametrize(
    ("given", "wishes"),
    [
        (None, []),
        ("a", [LoraWish("a", 0.5)]),
        (Path("a"), [LoraWish(Path("a"), 0.5)]),
        (("a", 0.7), [LoraWish("a", Strength(0.7))]),
        (("a", None), [LoraWish("a", None)]),
        (("a", "b"), [LoraWish("a", 0.5), LoraWish("b", 0.5)]),
        (["a", ("b", 1), ["c", 2.0]], [LoraWish("a", 0.5), LoraWish("b", Strength(1.0)), LoraWish("c", Strength(2.0))]),
        ([("a", CHORUS)], [LoraWish("a", CHORUS)]),
        ({"path": "a"}, [LoraWish("a", 0.5)]),
        ([{"path": "a", "weight": 0.1, "raw_scale": True}], [LoraWish("a", 0.1, raw_scale=True)]),
    ],
)
def test_adapters_are_asked_for_alone_in_lists_and_with_weights(given: Any, wishes: list[LoraWish]) -> None:
    assert lora_wishes(given, 0.5) == wishes


def test_what_a_recipe_holds_asks_for_the_same_strength() -> None:
    told = {"path": "a", "weight": 0.01, "sections": [[2, 4, 0.03]], "noise_ranges": [[1, 0.9, 0.5]]}
    assert lora_wishes(json.loads(json.dumps([told]))) == [LoraWish("a", CHORUS)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, "is no LoRA; give a path"),
        ([5], "is no LoRA; give a path"),
        ([("a", 1.0, 2.0)], "is no LoRA; give a path"),
        ([("a", "loud")], "a number or a Strength, found 'loud'"),
        ([("a", True)], "a number or a Strength, found True"),
        ([("a", float("nan"))], "a strength is a number"),
        ({"a": 0.5}, "its names are path, weight"),
        ({"path": "a", "weight": 1, "sections": [[1, 2]]}, "sections are"),
        ({"path": "a", "weight": 1, "sections": [["x", 2, 3]]}, "sections are"),
        ({"path": "a", "weight": 1, "sections": 3}, "sections are"),
        ({"path": "a", "weight": 1, "sections": [[3, 2, 1]]}, "its end comes later"),
        ({"path": "a", "sections": [[1, 2, 3]]}, "no weight beside it"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        lora_wishes(given)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("StemGen", "StemGen is planned and not released yet"),
        ("lofivibes", "LoFiVibes is planned"),
        ("Lyric2Vocal", "hf download ACE-Step/ACE-Step-v1-Lyric2Vocal-LoRA"),
        ("ACE-Step/ACE-Step-v1-Lyric2Vocal-LoRA", "hf download ACE-Step/ACE-Step-v1-Lyric2Vocal-LoRA"),
        ("nobody/nothing", "hf download nobody/nothing"),
    ],
)
def test_official_loras_that_are_not_here_say_why_or_how_to_get_them(
    pipe: ACEStepPipeline, path: str, said: str
) -> None:
    with pytest.raises(MissingWeightsError, match=said):
        pipe.load_lora(path)


def test_a_weight_or_a_name_that_cannot_be_is_refused_before_anything_is_attached(
    pipe: ACEStepPipeline, choir: Path
) -> None:
    pipe.load_lora(choir, 0.0, name="chöre/1.0")
    refused: list[dict[str, Any]] = [{"weight": "loud"}, {"weight": float("inf")}, {"name": "chöre/1.0"}]
    for wishes in refused:
        with pytest.raises(AceStepError):
            pipe.load_lora(choir, **wishes)
    with pytest.raises(InputError, match="no adapter named x"):
        pipe.set_lora_weights({"chöre/1.0": 1.0, "x": 1.0})
    with pytest.raises(InputError, match="found None"):
        pipe.set_lora_weights({"chöre/1.0": None})  # type: ignore[dict-item]
    assert pipe.loras == {"chöre/1.0": 0.0}
