"""What the step at work has come to so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from acestep.training.results import ExampleLoss


@dataclass
class StepTally:
    """Of one process; `merged` is that of all. audio_s: of music heard; waiting_s: for data; memory_bytes: the most
    that was held since the run began, where it had to be asked of several processes."""

    examples: list[ExampleLoss] = field(default_factory=list)
    batches_done: int = 0
    audio_s: float = 0.0
    waiting_s: float = 0.0
    memory_bytes: int = 0

    @property
    def loss(self) -> float:
        """Mean over the examples, of which there must be one."""
        return math.fsum(example.loss for example in self.examples) / len(self.examples)

    @classmethod
    def merged(cls, parts: Sequence[StepTally]) -> StepTally:
        """Of a step whose parts were done at the same time: the slowest one tells how long was waited."""
        return cls(
            examples=[example for part in parts for example in part.examples],
            batches_done=sum(part.batches_done for part in parts),
            audio_s=sum(part.audio_s for part in parts),
            waiting_s=max(part.waiting_s for part in parts),
            memory_bytes=max(part.memory_bytes for part in parts),
        )
