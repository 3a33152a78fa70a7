from __future__ import annotations

from pathlib import Path

import numpy as np

from acestep.training.expected_loss import corrected_losses
from acestep.training.history import read_history
from acestep.training.results import ExampleLoss
from training.test_history import record, step_result


def test_what_was_learned_shows_through_the_luck_of_the_draws(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    learned = np.linspace(1.0, 0.7, 400)
    results = []
    for index, level in enumerate(learned):
        sigmas = generator.uniform(0.05, 1, size=2)
        examples = tuple(ExampleLoss("a", float(sigma), float(level * sigma**2)) for sigma in sigmas)
        loss = sum(example.loss for example in examples) / 2
        results.append(step_result(index + 1, loss=loss, examples=examples))
    record(tmp_path, *results)
    steps = read_history(tmp_path).steps
    corrected = corrected_losses(steps)
    assert corrected is not None
    assert np.isclose(corrected.mean(), steps.loss.mean())
    assert np.corrcoef(learned, corrected)[0, 1] > 0.9
    assert abs(np.corrcoef(learned, steps.loss)[0, 1]) < 0.4


def test_steps_without_examples_stay_unknown_and_few_examples_are_not_corrected(tmp_path: Path) -> None:
    many = tuple(ExampleLoss("a", 0.01 * index, 1.0 + index) for index in range(1, 60))
    record(tmp_path, step_result(1, examples=many), step_result(2, examples=()))
    corrected = corrected_losses(read_history(tmp_path).steps)
    assert corrected is not None
    assert np.isfinite(corrected).tolist() == [True, False]
    record(tmp_path / "few", step_result(1))
    assert corrected_losses(read_history(tmp_path / "few").steps) is None
