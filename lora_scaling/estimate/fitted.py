"""Predictions from a `fit.json`, the energy model that `python -m analysis fit` wrote. Standard library only.

Each model of a fit says, for one run,

    log(response / per) = Σ_i contribution_i(target) + noise,   noise ~ sigma · t(df)

where `response` is joules (`models`) or seconds (`time`) of the training phase and `per` a quantity of the target's
work (usually `tokens`). `terms` maps each parameter to how it enters:

    "1"                   the parameter itself (an intercept)
    "log(NAME)"           parameter · ln(value of NAME), e.g. log(flops_per_token)
    "NAME"                parameter · value of NAME
    "LABEL=VALUE"         the parameter where the target's label has that value, e.g. method=qlora
    "saturation(NAME)"    ln(1 + e^parameter / NAME): utilisation that rises to a plateau

A fit without `terms` is read by its parameters' names: alpha or intercept → 1, gamma → log(flops_per_token),
`method[qlora]` → method=qlora, anything else as a term itself. Several models form a mixture by their weights, so
that the interval holds the uncertainty of the form as well (statistics.md). The fixed part (everything but training)
is added with its own spread.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .quantiles import Component, mixture_quantile, t_quantile

SCHEMA_VERSION = 1
JOULES_PER_KWH = 3.6e6
# Log-scale spread added for a method or precision the fit has never seen: a factor 1.5 either way at 90 %.
UNSEEN_LABEL_SD = math.log(1.5) / 1.645

_CALL = re.compile(r"(log|saturation)\((\w+)\)")
_NAMED = {"alpha": "1", "intercept": "1", "Intercept": "1", "gamma": "log(flops_per_token)"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The run to predict: quantities of its work (`tokens`, `flops_per_token`, `samples`, …), and its labels.

    labels: `method`, `hardware`, `precision`.
    """

    values: Mapping[str, float]
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A median and an interval for one new run, and where the target lies outside the fit's data.

    extrapolates: {"variable", "factor"} (times beyond the nearest end of the fitted range; None for a label).
    """

    estimate: float
    low: float
    high: float
    extrapolates: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """One model of the mixture; `covariance` is ordered as `param_names`."""

    name: str
    weight: float
    per: str
    terms: Mapping[str, str]
    params: Mapping[str, float]
    param_names: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    df: float
    sigma: float

    def component(self, target: Target, extra_sd: float = 0.0) -> Component:
        """The log-scale predictive distribution of a new run's response."""
        location, gradient = math.log(_value(target, self.per)), []
        for name in self.param_names:
            contribution, slope = _contribution(self.terms[name], self.params[name], target)
            location += contribution
            gradient.append(slope)
        variance = sum(
            a * b * c
            for a, row in zip(gradient, self.covariance, strict=True)
            for b, c in zip(gradient, row, strict=True)
        )
        scale = math.sqrt(max(0.0, variance) + self.sigma**2 + extra_sd**2)
        return Component(weight=self.weight, location=location, scale=scale, df=self.df)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean, the standard deviation of single runs, and how many runs."""

    mean: float
    sd: float
    n: int

    def half_width(self, level: float) -> float:
        """Half the prediction interval of one more run; the mean itself where there was only one to learn from."""
        if self.n < 2:
            return abs(self.mean)
        return t_quantile(0.5 + level / 2, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted energy model: `fit.json` as dataclasses."""

    energy: tuple[FittedModel, ...]
    time: tuple[FittedModel, ...]
    fixed_energy_j: Spread | None
    fixed_time_s: Spread | None
    ranges: Mapping[str, tuple[float, float]]
    methods: tuple[str, ...]
    hardware: tuple[str, ...]
    precisions: tuple[str, ...]
    n: int
    path: str

    def predict(self, target: Target, level: float = 0.9) -> Prediction:
        """Energy of the whole run in kWh: training by the mixture, plus the fixed part.

        Raises:
            UserError: the fit is of other hardware, or the target lacks a quantity that the fit needs.
        """
        joules = self._predict(self.energy, self.fixed_energy_j, target, level)
        return Prediction(
            estimate=joules.estimate / JOULES_PER_KWH,
            low=joules.low / JOULES_PER_KWH,
            high=joules.high / JOULES_PER_KWH,
            extrapolates=joules.extrapolates,
        )

    def predict_time(self, target: Target, level: float = 0.9) -> Prediction | None:
        """Seconds of the whole run; None for a fit without a model of time."""
        return self._predict(self.time, self.fixed_time_s, target, level) if self.time else None

    def extrapolates(self, target: Target) -> tuple[dict[str, Any], ...]:
        """What of the target lies outside the data, by name, and how many times beyond the nearest end."""
        found: list[dict[str, Any]] = []
        for name, (low, high) in self.ranges.items():
            value = target.values.get(name)
            if value is None or not value > 0 or not low > 0:
                continue
            factor = max(value / high, low / value)
            if factor > 1 + 1e-9:
                found.append({"variable": name, "factor": factor})
        for label, seen in (("method", self.methods), ("precision", self.precisions)):
            given = target.labels.get(label)
            if given is not None and seen and given not in seen:
                found.append({"variable": label, "factor": None})
        return tuple(found)

    def _predict(
        self, models: Sequence[FittedModel], fixed: Spread | None, target: Target, level: float
    ) -> Prediction:
        self._check_hardware(target)
        extrapolates = self.extrapolates(target)
        unseen = sum(item["factor"] is None for item in extrapolates)
        extra_sd = UNSEEN_LABEL_SD * math.sqrt(unseen)
        components = [model.component(target, extra_sd) for model in models]
        low, middle, high = (
            math.exp(mixture_quantile(components, p)) for p in (0.5 - level / 2, 0.5, 0.5 + level / 2)
        )
        mean, half = (fixed.mean, fixed.half_width(level)) if fixed is not None else (0.0, 0.0)
        estimate = middle + mean
        return Prediction(
            estimate=estimate,
            low=max(low, estimate - math.hypot(middle - low, half)),
            high=estimate + math.hypot(high - middle, half),
            extrapolates=extrapolates,
        )

    def _check_hardware(self, target: Target) -> None:
        given = target.labels.get("hardware")
        if given is not None and self.hardware and not any(same_device(given, name) for name in self.hardware):
            raise UserError(
                f"`fit` was {self.path}, fitted on {', '.join(self.hardware)}, not on {given}; "
                "efficiency does not carry over: estimate without fit=, or fit a sweep from that device"
            )


def same_device(one: str, other: str) -> bool:
    """Whether two names mean the same device: `rtx-a4000` and `NVIDIA RTX A4000` do."""
    first, second = (set(re.findall(r"[a-z0-9.]+", name.lower())) - {"nvidia", "amd"} for name in (one, other))
    return bool(first and second) and (first <= second or second <= first)


def load_fit(path: str | Path) -> Fit:
    """Read a `fit.json`.

    Raises:
        UserError: it is not there, not JSON, not a fit, or of a schema this version does not know.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"`fit` was {path}, which cannot be read ({error.strerror}); give a fit.json") from None
    except ValueError:
        raise UserError(f"`fit` was {path}, which is not JSON; make one with python -m analysis fit RUNS") from None
    if not isinstance(values, dict) or values.get("kind") != "energy_fit":
        raise UserError(f"`fit` was {path}, which is not an energy fit; make one with python -m analysis fit RUNS")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"`fit` was {path} with schema_version {values.get('schema_version')!r}; "
            f"this version reads {SCHEMA_VERSION}: fit again"
        )
    try:
        return fit_from_dict(values, str(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"`fit` was {path}, which is damaged ({error!r}); fit again") from None


def fit_from_dict(values: Mapping[str, Any], path: str = "fit.json") -> Fit:
    """The dataclasses from the parsed JSON; KeyError, TypeError or ValueError where something is amiss."""
    fixed = values.get("fixed") or {}
    time = values.get("time") or []
    energy = tuple(_model(item) for item in values["models"])
    if not energy:
        raise ValueError("it holds no model")
    return Fit(
        energy=energy,
        time=tuple(_model(item) for item in (time.get("models", []) if isinstance(time, dict) else time)),
        fixed_energy_j=_spread(fixed.get("energy_j")),
        fixed_time_s=_spread(fixed.get("time_s")),
        ranges={
            name: (float(min(ends)), float(max(ends))) for name, ends in (values.get("ranges") or {}).items() if ends
        },
        methods=tuple(values.get("methods") or ()),
        hardware=tuple(values.get("hardware") or ()),
        precisions=tuple(values.get("precisions") or ()),
        n=int(values["n"]),
        path=path,
    )


def _model(item: Mapping[str, Any]) -> FittedModel:
    names = tuple(item["param_names"])
    given = item.get("terms") or {}
    df = item.get("df")
    return FittedModel(
        name=str(item["name"]),
        weight=float(item["weight"]),
        per=str(item.get("per") or "tokens"),
        terms={name: given.get(name) or _term_of(name) for name in names},
        params={name: float(item["params"][name]) for name in names},
        param_names=names,
        covariance=tuple(tuple(float(x) for x in row) for row in item["covariance"]),
        df=math.inf if df is None else float(df),
        sigma=float(item["sigma"]),
    )


def _term_of(name: str) -> str:
    label = re.fullmatch(r"(?:C\()?(\w+)\)?\[(?:T\.)?(.+)\]", name)
    return _NAMED.get(name) or (f"{label.group(1)}={label.group(2)}" if label else name)


def _spread(item: Mapping[str, Any] | None) -> Spread | None:
    if not item or item.get("mean") is None:
        return None
    return Spread(mean=float(item["mean"]), sd=float(item.get("sd") or 0.0), n=int(item["n"]))


def _contribution(term: str, parameter: float, target: Target) -> tuple[float, float]:
    """What a term adds on the log scale, and its derivative by the parameter."""
    if term == "1":
        return parameter, 1.0
    if "=" in term:
        label, _, wanted = term.partition("=")
        given = target.labels.get(label.strip())
        hit = given is not None and (
            same_device(given, wanted) if label.strip() == "hardware" else given == wanted.strip()
        )
        return (parameter, 1.0) if hit else (0.0, 0.0)
    call = _CALL.fullmatch(term.replace(" ", ""))
    if call is None:
        value = _value(target, term)
        return parameter * value, value
    function, name = call.groups()
    value = _value(target, name)
    if function == "log":
        return parameter * math.log(value), math.log(value)
    ratio = math.exp(parameter) / value
    return math.log1p(ratio), ratio / (1 + ratio)


def _value(target: Target, name: str) -> float:
    value = target.values.get(name)
    if value is None:
        raise UserError(f"`fit` needs {name} of the target run, which is unknown here; estimate without fit=")
    return value
