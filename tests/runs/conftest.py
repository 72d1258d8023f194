"""Shared by the tests of runs and studies."""

from collections.abc import Callable
from typing import Any

import pytest

from lora_scaling.errors import UserError
from tests.support.machine import Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def unknown(*_: object, **__: object) -> None:
        raise UserError("`model.shape` is unknown here")

    def use(*, known: bool = False, **truth: Any) -> Machine:
        made = Machine(**truth)
        if not known:
            monkeypatch.setattr("lora_scaling.estimate.sweeps.estimate", unknown)
        monkeypatch.setattr("lora_scaling.runs.study.run", made.run)
        return made

    return use
