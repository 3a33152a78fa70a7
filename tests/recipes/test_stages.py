from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from recipes.nano import stages
from recipes.nano.stages import train_stage
from torch import Tensor, nn


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def _losses(model: nn.Module, *, stop_at: int = 10**9) -> Callable[[int], Mapping[str, tuple[float, Tensor]]]:
    def losses(step: int) -> Mapping[str, tuple[float, Tensor]]:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return {"square": (1.0, (model(x) - 1).square().mean())}

    return losses


def test_a_stage_that_was_stopped_ends_where_an_unbroken_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "SAVE_EVERY", 4)
    whole, broken, resumed = _model(), _model(), _model()
    whole = train_stage("a", whole, _losses(whole), tmp_path / "whole.pt", steps=12, rate=0.1)
    with pytest.raises(KeyboardInterrupt):
        train_stage("b", broken, _losses(broken, stop_at=9), tmp_path / "part.pt", steps=12, rate=0.1)
    resumed = train_stage("b", resumed, _losses(resumed), tmp_path / "part.pt", steps=12, rate=0.1)
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
