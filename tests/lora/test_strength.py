import json
import math

import pytest

from acestep.errors import CheckpointError
from acestep.lora.strength import HEADER_KEY, names_module, settings_from_config, settings_from_header


def test_the_released_rap_recipe_was_trained_at_strength_two():
    settings = settings_from_config({"r": 256, "lora_alpha": 32, "use_rslora": True})
    assert settings is not None
    assert settings.scale("speaker_embedder", 256) == pytest.approx(2.0)


def test_the_tensors_rank_decides_and_not_the_configs():
    settings = settings_from_config({"r": 4, "lora_alpha": 8, "rank_pattern": {"to_v": 2}})
    assert settings is not None
    assert settings.scale("blocks.0.to_v", 2) == 4.0
    assert settings.scale("blocks.0.to_q", 4) == 2.0


def test_alpha_patterns_name_whole_modules_after_a_caret_and_ends_otherwise():
    settings = settings_from_config({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^a.to_q": 4, "to_v": 16}})
    assert settings is not None
    assert settings.scale("a.to_q", 4) == 1.0
    assert settings.scale("b.a.to_q", 4) == 2.0
    assert settings.scale("a.to_v", 4) == 4.0
    assert settings.scale("a.not_to_v", 4) == 2.0


def test_escaped_patterns_mean_the_name_itself():
    assert names_module(r"^a\.to_out\.0$", "a.to_out.0")


def test_a_pattern_that_could_run_for_hours_is_refused():
    with pytest.raises(CheckpointError, match="not a module's name"):
        names_module("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")


def test_diffusers_header_with_prefixed_names_is_understood():
    header = {HEADER_KEY: json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    settings = settings_from_header(header)
    assert settings is not None
    assert settings.scale("a", 4) == 0.5


@pytest.mark.parametrize("alpha", [0, -1, math.nan, "much"])
def test_an_alpha_that_is_no_strength_is_refused(alpha: object):
    with pytest.raises(CheckpointError, match="rank and alpha"):
        settings_from_config({"r": 4, "lora_alpha": alpha})


def test_nothing_said_is_none():
    assert settings_from_header({"format": "pt"}) is None
    assert settings_from_config({"r": 4}) is None
