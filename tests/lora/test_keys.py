from acestep.lora.keys import parse_key, resolve_module

KNOWN = {"transformer_blocks.0.attn.to_q", "speaker_embedder", "transformer_blocks.0.attn.to_out.0"}


def test_every_prefix_and_infix_that_programs_write_leads_to_the_models_own_name():
    for prefix in ("", "base_model.model.", "base_model.model.base_model.model.", "transformer."):
        for infix in ("", ".default", ".my_adapter"):
            module, role = parse_key(f"{prefix}transformer_blocks.0.attn.to_out.0.lora_B{infix}.weight") or ("", None)
            assert role == "B"
            assert resolve_module(module, KNOWN) == "transformer_blocks.0.attn.to_out.0"


def test_a_name_is_never_matched_by_its_end_alone():
    assert resolve_module("somewhere.speaker_embedder", KNOWN) is None


def test_without_known_names_only_prefixes_come_off():
    assert resolve_module("base_model.model.a.b", None) == "a.b"


def test_alpha_is_told_from_factors_and_the_rest_is_left():
    assert parse_key("a.b.alpha") == ("a.b", "alpha")
    assert parse_key("a.b.weight") is None
    assert parse_key("a.b.lora_C.weight") is None
