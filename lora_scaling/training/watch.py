"""Look at a training while it goes on, for a progress line, without making the host wait for the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, kw_only=True)
class Seen:
    """tokens: trained on so far. loss: mean of a predicted token since the look before; None if unknown (yet)."""

    tokens: int
    loss: float | None


class Counts(Protocol):
    """What a trainer adds up; the loss may be a tensor on the device."""

    tokens: int
    labels: int
    loss: torch.Tensor | float


class Watch:
    """Looks at what a trainer has counted.

    A loss on a GPU is copied in the order of the work that the host has queued there, and is read at a later look, when
    the copy has come: a look costs the queueing of a few bytes, and neither host nor device waits.
    """

    def __init__(self, counted: Callable[[], Counts], device: torch.device) -> None:
        self._counted = counted
        self._kind = device.type
        # Pinned now, because pinning memory does wait for the device.
        self._host = torch.zeros((), dtype=torch.float64, pin_memory=True) if self._kind == "cuda" else None
        self._copied: torch.cuda.Event | None = None
        self._labels_copied = 0
        self._before = (0, 0.0)  # predicted tokens, and the sum of their losses
        self._loss: float | None = None

    def look(self) -> Seen:
        """Return what is known now."""
        counted = self._counted()
        if self._kind == "cpu":
            self._take(counted.labels, float(counted.loss))
        elif self._host is not None and isinstance(counted.loss, torch.Tensor):
            if self._copied is not None and self._copied.query():
                self._take(self._labels_copied, float(self._host))
                self._copied = None
            if self._copied is None:
                self._host.copy_(counted.loss, non_blocking=True)
                self._labels_copied = counted.labels
                self._copied = torch.cuda.Event()
                self._copied.record()
        return Seen(tokens=counted.tokens, loss=self._loss)

    def _take(self, labels: int, loss: float) -> None:
        labels_before, loss_before = self._before
        if labels > labels_before:
            self._loss = (loss - loss_before) / (labels - labels_before)
            self._before = (labels, loss)
