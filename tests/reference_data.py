"""Where golden numbers come from: the committed selection first, then the full set beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

_COMMITTED = Path(__file__).parent / "reference"
_BESIDE = Path(__file__).parents[2] / "shared" / "reference"


def reference_path(relative: str) -> Path:
    """The file or folder of that name; skips the test, saying so, where neither place has it."""
    for root in (_COMMITTED, _BESIDE):
        if (root / relative).exists():
            return root / relative
    pytest.skip(f"{relative} is not in tests/reference, and ../shared/reference is absent")


def load_golden(relative: str) -> dict[str, Tensor]:
    """All tensors of one golden file, by name."""
    return load_file(reference_path(relative))


def load_json(relative: str) -> Any:
    return json.loads(reference_path(relative).read_text(encoding="utf-8"))
