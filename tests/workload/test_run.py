"""Steps, passes and samples of a run as expected before it, against the run."""

from collections.abc import Callable
from typing import Any

import pytest

from lora_scaling.config import RunConfig
from lora_scaling.workload import Lengths, epochs_and_passes


@pytest.mark.parametrize(
    ("overrides", "steps", "passes", "shown"),
    [
        # 10 samples in batches of 4 are 3 passes an epoch, the last of 2 samples; 2 passes a step leave one over.
        (("samples=10", "gradient_accumulation=2", "epochs=3"), 6, 9, 30),
        (("samples=10", "gradient_accumulation=2", "epochs=3", "max_steps=3"), 3, 5, 18),
        (("samples=10", "gradient_accumulation=2", "epochs=3", "max_steps=4"), 4, 6, 20),
        (("samples=10", "gradient_accumulation=2", "epochs=3", "max_steps=50"), 6, 9, 30),
        (("samples=10", "gradient_accumulation=8", "epochs=2"), 2, 6, 20),
        (("samples=3", "max_steps=1"), 1, 1, 3),
    ],
)
def test_a_trainer_takes_the_steps_and_passes_that_were_expected(
    overrides: tuple[str, ...],
    steps: int,
    passes: int,
    shown: int,
    tiny: Callable[..., RunConfig],
    made: Callable[..., dict[str, Any]],
) -> None:
    expected = tiny(*overrides, "study=steps").workload(Lengths((24,)))
    assert (expected.steps, expected.micro_steps, expected.samples_seen) == (steps, passes, shown)
    record = made(*overrides, "study=steps")
    assert record["status"] == "ok", record["error"]
    work = record["work"]
    assert (work["steps"], work["micro_steps"], work["samples_seen"]) == (steps, passes, shown)


@pytest.mark.parametrize(
    ("steps", "an_epoch", "accumulation", "found"),
    [(0, 3, 2, (0, 0)), (1, 3, 2, (0, 2)), (2, 3, 2, (1, 0)), (5, 3, 2, (2, 2)), (4, 4, 1, (1, 0)), (2, 1, 8, (2, 0))],
)
def test_an_epochs_last_step_may_take_fewer_passes(
    steps: int, an_epoch: int, accumulation: int, found: tuple[int, int]
) -> None:
    assert epochs_and_passes(steps, an_epoch, accumulation) == found
