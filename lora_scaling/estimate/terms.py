"""The terms of a fitted model: what each parameter adds to the log of a run's energy or time.

    "1"                     the parameter itself (an intercept)
    "log(NAME)"             parameter · ln(value of NAME), e.g. log(flops_per_token)
    "NAME"                  parameter · value of NAME
    "LABEL=VALUE"           the parameter where the target's label has that value, e.g. method=qlora
    "saturation(NAME)"      ln(1 + e^parameter / NAME): utilisation that rises to a plateau, or a fixed cost
    "saturation(NAME, k)"   ln(1 + (e^parameter / NAME)^k): the same, more slowly (k < 1) or more suddenly (k > 1)
    "roofline(NAME, p)"     ln(1 + (e^parameter / NAME)^p) / p: flat, then in proportion, with a bend as sharp as p
    "cost(NAME)"            costs that add up: all such terms of a model together are ln(1 + Σ e^parameter / NAME)

NAME is a quantity of the run's work; `run` is 1 for every run.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_scaling.config.devices import same_device
from lora_scaling.errors import UserError

Array = NDArray[np.float64]

PER_RUN = "run"

_CALL = re.compile(r"(log|saturation|roofline|cost)\((\w+)(?:,([0-9.]+))?\)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A run to predict, or m of them: quantities of its work (`tokens`, `flops_per_token`, …), and its labels.

    values: numbers or arrays (m,). labels (`method`, `hardware`, `precision`): strings or arrays (m,) of strings.
    """

    values: Mapping[str, Any]
    labels: Mapping[str, Any]

    def value(self, name: str) -> Array:
        """Return the quantity of this name, () or (m,).

        Raises:
            UserError: it is not known of the target.
        """
        if name == PER_RUN:
            return np.ones(())
        value = self.values.get(name)
        if value is None:
            raise UserError(f"fit: needs {name} of the target run, which is unknown here; estimate without fit=")
        return np.asarray(value, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term taken apart. kind: one, log, linear, label, saturation, roofline, cost; power: its k or p."""

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


def contributions(
    terms: Mapping[str, str], params: Mapping[str, float] | Mapping[str, Array], target: Target
) -> tuple[Array, dict[str, Array]]:
    """Return what terms add together on the log scale, and its derivative by each parameter: each () or (m,).

    `params` are numbers, or arrays that broadcast with the target's values.
    """
    kinds = {name: parse_term(text) for name, text in terms.items()}
    costs = {
        name: params[name] - np.log(target.value(term.name)) for name, term in kinds.items() if term.kind == "cost"
    }
    added = functools.reduce(np.logaddexp, costs.values(), np.zeros(()))
    slopes = {name: np.exp(cost - added) for name, cost in costs.items()}
    for name, term in kinds.items():
        if name not in costs:
            part, slopes[name] = _contribution(term, params[name], target)
            added = added + part
    return added, {name: slopes[name] for name in terms}


def _contribution(term: Term, parameter: float | Array, target: Target) -> tuple[Array, Array]:
    """Return what a term that stands by itself adds, and its derivative."""
    if term.kind == "one":
        return np.asarray(parameter), np.ones(())
    if term.kind == "label":
        matches = _has_label(target, term)
        return parameter * matches, matches
    value = target.value(term.name)
    if term.kind == "linear":
        return parameter * value, value
    if term.kind == "log":
        return parameter * np.log(value), np.log(value)
    exponent = term.power * (parameter - np.log(value))
    outer = term.power if term.kind == "roofline" else 1.0
    slope = term.power / (1.0 + np.exp(-np.clip(exponent, -700, 700)))
    return np.logaddexp(0.0, exponent) / outer, slope / outer


def _has_label(target: Target, term: Term) -> Array:
    """1 for each run with the term's label, else 0; a device is known by all of its names."""
    given = target.labels.get(term.name)
    if given is None:
        return np.zeros(())
    same = same_device if term.name == "hardware" else str.__eq__
    if isinstance(given, str):
        return np.asarray(float(same(given, term.value)))
    matching = [name for name in set(given.tolist()) if same(str(name), term.value)]
    return np.isin(given.astype(str), matching).astype(float)
