import pytest

from acestep.training.results import ExampleLoss
from acestep.training.tally import StepTally


def test_the_parts_of_a_step_add_up_and_the_slowest_one_tells_the_waiting():
    first = StepTally([ExampleLoss("a.wav", 0.5, 1.0), ExampleLoss("b.wav", 0.5, 2.0)], 2, 20.0, 0.1, 300)
    second = StepTally([ExampleLoss("c.wav", 0.5, 6.0)], 1, 10.0, 0.4, 200)
    merged = StepTally.merged([first, second])
    assert merged == StepTally([*first.examples, *second.examples], 3, 30.0, 0.4, 300)
    assert merged.loss == pytest.approx(3.0)
