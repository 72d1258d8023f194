"""The terms of a fitted model: what each parameter adds to the log of a run's energy or time.

    "1"                     the parameter itself (an intercept)
    "log(NAME)"             parameter · ln(value of NAME), e.g. log(flops_per_token)
    "NAME"                  parameter · value of NAME
    "LABEL=VALUE"           the parameter where the target's label has that value, e.g. method=qlora
    "saturation(NAME)"      ln(1 + e^parameter / NAME): utilisation that rises to a plateau, or a fixed cost
    "saturation(NAME, k)"   ln(1 + (e^parameter / NAME)^k): the same, more slowly (k < 1) or more suddenly (k > 1)

NAME is a quantity of the target's work; `run` is 1 for every run.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lora_scaling.config.devices import same_device
from lora_scaling.errors import UserError

PER_RUN = "run"

_CALL = re.compile(r"(log|saturation)\((\w+)(?:,([0-9.]+))?\)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run to predict: quantities of its work (`tokens`, `flops_per_token`, `samples`, …), and its labels.

    labels: `method`, `hardware`, `precision`.
    """

    values: Mapping[str, float]
    labels: Mapping[str, str]

    def value(self, name: str) -> float:
        """The quantity of this name.

        Raises:
            UserError: it is not known of the target.
        """
        if name == PER_RUN:
            return 1.0
        value = self.values.get(name)
        if value is None:
            raise UserError(f"`fit` needs {name} of the target run, which is unknown here; estimate without fit=")
        return value


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term taken apart. kind: `one`, `log`, `linear`, `label`, `saturation`; power: the k of a saturation."""

    kind: str
    name: str
    value: str = ""
    power: float = 1.0


@functools.cache
def parse_term(text: str) -> Term:
    """The parts of a term as it is written in `fit.json`."""
    squeezed = text.replace(" ", "")
    if squeezed == "1":
        return Term(kind="one", name=PER_RUN)
    call = _CALL.fullmatch(squeezed)
    if call is not None:
        function, name, power = call.groups()
        return Term(kind=function, name=name, power=float(power or 1.0))
    if "=" in text:
        label, _, value = text.partition("=")
        return Term(kind="label", name=label.strip(), value=value.strip())
    return Term(kind="linear", name=squeezed)


def contribution(text: str, parameter: float, target: Target) -> tuple[float, float]:
    """What a term adds on the log scale, and its derivative by the parameter."""
    term = parse_term(text)
    if term.kind == "one":
        return parameter, 1.0
    if term.kind == "label":
        return (parameter, 1.0) if _has_label(target, term) else (0.0, 0.0)
    value = target.value(term.name)
    if term.kind == "linear":
        return parameter * value, value
    if term.kind == "log":
        return parameter * math.log(value), math.log(value)
    exponent = term.power * (parameter - math.log(value))
    if exponent > 40:  # e^exponent dwarfs the 1
        return exponent, term.power
    ratio = math.exp(exponent)
    return math.log1p(ratio), term.power * ratio / (1 + ratio)


def _has_label(target: Target, term: Term) -> bool:
    given = target.labels.get(term.name)
    if given is None:
        return False
    return same_device(given, term.value) if term.name == "hardware" else given == term.value
