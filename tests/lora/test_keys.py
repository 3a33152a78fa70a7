import pytest

from acestep.lora.keys import ModuleNames, naming_of, other_kind, parse_key, without_prefixes

BLOCK = "transformer_blocks.0.attn"
KNOWN = [f"{BLOCK}.to_q", "speaker_embedder", f"{BLOCK}.to_out.0", "transformer_blocks.0.cross_attn.to_q"]
NAMES = ModuleNames(KNOWN)
OUT = f"{BLOCK}.to_out.0"
FLAT = OUT.replace(".", "_")


def read(key: str) -> tuple[str | None, str]:
    parsed = parse_key(key)
    assert parsed is not None
    return NAMES.resolve(parsed[0]), parsed[1]


@pytest.mark.parametrize(
    "prefix",
    ["", "base_model.model.", "base_model.model.base_model.model.", "transformer.", "diffusion_model."],
)
@pytest.mark.parametrize("factor", ["lora_B.weight", "lora_B.default.weight", "lora_B.my_lora.weight", "lora_B"])
def test_every_prefix_and_infix_that_programs_write_leads_to_the_models_own_name(prefix: str, factor: str):
    assert read(f"{prefix}{OUT}.{factor}") == (OUT, "B")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_unet_decoder_", "lycoris_"])
@pytest.mark.parametrize(
    ("part", "role"),
    [
        ("lora_down.weight", "A"),
        ("lora_up.weight", "B"),
        ("lora_mid.weight", "mid"),
        ("alpha", "alpha"),
        ("dora_scale", "dora_scale"),
        ("hada_w1_b", "hada_w1_b"),
        ("hada_t2", "hada_t2"),
        ("lokr_w1", "lokr_w1"),
        ("lokr_w2_a", "lokr_w2_a"),
    ],
)
def test_flattened_names_are_looked_up_with_every_part_of_every_kind(prefix: str, part: str, role: str):
    assert read(f"{prefix}{FLAT}.{part}") == (OUT, role)


@pytest.mark.parametrize(
    "part", ["_lora.up.weight", ".lora.up.weight", ".lora_linear_layer.up.weight", ".lora_up.weight"]
)
def test_all_four_spellings_of_up_are_b(part: str):
    assert read(f"diffusion_model.{OUT}{part}") == (OUT, "B")


def test_pefts_magnitudes_are_found_with_and_without_its_infixes():
    for part in ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"):
        assert read(f"base_model.model.{OUT}.{part}") == (OUT, "magnitude")


def test_a_name_is_never_matched_by_its_end_alone():
    assert NAMES.resolve("somewhere.speaker_embedder") is None
    assert NAMES.resolve("lora_unet_attn_to_q") is None


def test_two_modules_that_flatten_to_one_name_are_not_guessed_between():
    names = ModuleNames(["a.b_c", "a_b.c", "a.d"])
    assert names.resolve("lora_unet_a_b_c") is None
    assert names.resolve("lora_unet_a_d") == "a.d"


def test_a_models_own_name_goes_before_what_a_prefix_would_leave_of_it():
    names = ModuleNames(["transformer.proj", "proj"])
    assert names.resolve("transformer.proj") == "transformer.proj"
    assert names.resolve("transformer.transformer.proj") == "transformer.proj"


def test_without_known_names_prefixes_come_off_and_flattened_names_stay_unknown():
    assert without_prefixes("base_model.model.a.b") == "a.b"
    assert without_prefixes("lora_unet_a_b") is None


@pytest.mark.parametrize(
    "key", ["a.b.weight", "a.b.lora_C.weight", "alpha", ".alpha", "", "lora_A.weight", "a.lora_down"]
)
def test_other_keys_are_left(key: str):
    assert parse_key(key) is None


@pytest.mark.parametrize(
    ("key", "naming"),
    [
        ("a.b.lora_A.weight", "acestep"),
        ("base_model.model.a.lora_A.weight", "peft"),
        ("transformer.a.lora_A.weight", "diffusers"),
        ("diffusion_model.a.lora_A.weight", "comfyui"),
        ("lora_unet_a.alpha", "kohya"),
        ("lycoris_a.lokr_w1", "lycoris"),
    ],
)
def test_a_way_of_naming_is_told_by_its_prefix(key: str, naming: str):
    assert naming_of([key]) == naming


def test_a_prefix_that_is_the_models_own_tells_nothing():
    assert naming_of(["transformer.a.lora_A.weight"], known=["transformer.a"]) == "acestep"


@pytest.mark.parametrize(
    ("key", "kind"), [("a.oft_blocks", "OFT"), ("a.diff", "full difference"), ("a.a1.weight", "GLoRA")]
)
def test_kinds_that_cannot_be_read_are_named(key: str, kind: str):
    assert other_kind([key]) == kind
    assert other_kind(["diffusion_model.a.lora_A.weight"]) is None
