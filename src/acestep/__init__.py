"""Fine-tune ACE-Step with LoRA, hear what it does, blend it and share it.

Names are loaded when first used, so `import acestep` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.lora.merge import merge_loras as merge_loras
    from acestep.pipeline import ACEStepPipeline as ACEStepPipeline
    from acestep.pipeline import GenerationResult as GenerationResult

_ROOMS = {
    "ACEStepPipeline": "acestep.pipeline",
    "GenerationResult": "acestep.pipeline",
    "merge_loras": "acestep.lora.merge",
}

__all__ = ["ACEStepPipeline", "GenerationResult", "merge_loras"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'acestep' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
