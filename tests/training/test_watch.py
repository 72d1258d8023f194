"""What a progress line sees of a training."""

from dataclasses import dataclass

import pytest
import torch

from lora_scaling.training.watch import Watch


@dataclass
class Counts:
    tokens: int = 0
    labels: int = 0
    loss: torch.Tensor | float = 0.0


def test_the_loss_is_that_since_the_look_before() -> None:
    counts = Counts()
    watch = Watch(lambda: counts, torch.device("cpu"))
    assert watch.look().loss is None
    counts.tokens, counts.labels, counts.loss = 100, 10, torch.tensor(20.0)
    assert (watch.look().tokens, watch.look().loss) == (100, 2.0)
    counts.tokens, counts.labels, counts.loss = 300, 30, torch.tensor(30.0)
    assert (watch.look().tokens, watch.look().loss) == (300, 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_look_does_not_wait_for_the_gpu() -> None:
    counts = Counts(labels=10, loss=torch.tensor(20.0, dtype=torch.float64, device="cuda"))
    watch = Watch(lambda: counts, torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        watch.look()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert watch.look().loss == 2.0
