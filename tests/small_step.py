"""Settings of a step on the small family."""

from __future__ import annotations

from typing import Any

from acestep.lora.attach import module_shapes
from acestep.lora.targets import find_targets
from acestep.training.planning.step_settings import StepSettings
from small_family import SmallFamily

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def settings_for(family: SmallFamily, **values: Any) -> StepSettings:
    targets = tuple(find_targets(module_shapes(family.network), TARGETS, family.lora_aliases))
    defaults = {"frames": 64, "rank": 4, "adapter": {"alpha": 4.0, "dropout": 0.1}, "text_tokens": 5, "lyric_tokens": 7}
    return StepSettings(targets=targets, **{**defaults, **values})
