"""Predict runs from a `fit.json`, the energy model that `lora-scaling analyse fit` wrote.

Each model of a fit says, for one run,

    log(response / per) = contributions of its terms(target) + noise,   noise ~ sigma · t(df)

where `response` is joules (`models`) or seconds (`time`) of the training phase and `per` a quantity of the target's
work (`tokens`, `flops`, …). `terms` maps each parameter to how it enters (see `terms.py`). A fit without `terms` is
read by its parameters' names: alpha or intercept → 1, gamma → log(flops_per_token), `method[qlora]` → method=qlora,
anything else as a term itself. Several models form a mixture by their weights, so that the interval holds the
uncertainty of the form as well (statistics.md). The fixed part (everything but training) is added with its own
spread, by its own models where it varied with the runs.

`noise` (optional): sigma grows or shrinks with a quantity of the work. `beyond` (optional): for each quantity, the
log-scale spread that is added for each factor e outside the fitted range, since no fit knows its own form there.
`session` (optional): the log-scale spread between sessions, of which the runs had too few to show it.
`counting` (optional): whether the runs' tokens and FLOPs include padding, and whether FLOPs were counted by parameters.
The target is counted in the same way.
`floor` (optional): the least joules and device-seconds that a FLOP takes on the device. Predictions are conditional on
staying above it: models that break through it at a target lose their weight there.
"""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from lora_scaling.config.devices import same_device
from lora_scaling.errors import UserError
from lora_scaling.estimate.quantiles import Mixture, t_cdf, t_quantile
from lora_scaling.estimate.result import LEVEL
from lora_scaling.estimate.terms import Array, Target, contributions, parse_term
from lora_scaling.records import read_text
from lora_scaling.units import JOULES_PER_KWH
from lora_scaling.workload import Counting

__all__ = [
    "Bands", "Fit", "FittedModel", "Prediction", "Spread", "Target", "fit_from_dict", "load_fit", "predictive_mixture",
    "training_bands",
]  # fmt: skip

SCHEMA_VERSION = 1
TIME_FIT = "time_fit"  # the `kind` of a fit whose models are of seconds
# Less is the same to every digit that is printed.
_BEYOND = 1.005
# A factor either way, at 90 %, that is added for a method or precision the fit has never seen. Runs of LoRA say little
# of full fine-tuning: at a small batch, the optimizer's pass over all weights doubles the time that their FLOPs take
# (PEFT's own pair on an L40S, 594 s and 1,813 s).
UNSEEN_LABEL_FACTOR = 2.2
UNSEEN_LABEL_SD = math.log(UNSEEN_LABEL_FACTOR) / 1.645
# Where less than this of a prediction lies above the physical floor, the models say nothing of the target.
LEAST_POSSIBLE = 0.01
# Runs reach this share of their device's best efficiency, or more half of the time: published runs of common stacks
# are at 0.15 to 0.65 of the dense peak, at about the board's power.
TYPICAL_EFFICIENCY, EFFICIENCY_SD = 0.45, 0.6

_NAMED = {"alpha": "1", "intercept": "1", "Intercept": "1", "gamma": "log(flops_per_token)"}


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
class Noise:
    """Noise that depends on the work: sigma · (value/reference)^exponent, never less than within `range`."""

    variable: str
    reference: float
    exponent: float
    range: tuple[float, float]

    def factor(self, target: Target) -> Array:
        """Return what sigma is multiplied by for each run."""
        value = target.value(self.variable)
        low, high = self.range
        # Falling noise is not extrapolated.
        value = np.minimum(value, high) if self.exponent < 0 else np.maximum(value, low)
        return (value / self.reference) ** self.exponent


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
    noise: Noise | None = None

    def location_and_gradient(self, target: Target) -> tuple[Array, Array]:
        """Return the mean log response, () or (m,), and its derivatives by the parameters, (k,) or (k, m)."""
        terms = {name: self.terms[name] for name in self.param_names}
        added, slopes = contributions(terms, self.params, target)
        location = np.log(target.value(self.per)) + added
        return location, np.stack(np.broadcast_arrays(*slopes.values(), location)[:-1])

    def mean_variance(self, target: Target) -> Array:
        """Return the variance of the mean log response, from the covariance of the parameters."""
        gradient = self.location_and_gradient(target)[1]
        return np.maximum(np.einsum("i...,ij,j...->...", gradient, np.array(self.covariance), gradient), 0.0)

    def noise_sd(self, target: Target) -> Array:
        """Return the log-scale standard deviation of a single run about its mean."""
        return self.sigma * (self.noise.factor(target) if self.noise is not None else np.ones(()))


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Medians and interval ends of m runs in the response's unit, each (m,); `sd` (m,) is on the log scale."""

    estimate: Array
    low: Array
    high: Array
    sd: Array


def predictive_mixture(
    models: Sequence[FittedModel], target: Target, *, noise: bool = True, extra_sd: Array | float = 0.0
) -> Mixture:
    """Return the log-scale predictive distributions of new runs or, without `noise`, of their means.

    `extra_sd`, () or (m,), is log-scale spread that is added to every model, as `Fit.form_sd` gives it.
    """
    location = [model.location_and_gradient(target)[0] for model in models]
    scale = [
        np.sqrt(model.mean_variance(target) + noise * model.noise_sd(target) ** 2 + np.square(extra_sd))
        for model in models
    ]
    each = np.broadcast_arrays(*(np.atleast_1d(array) for array in (*location, *scale)))
    return Mixture(
        weight=np.array([[model.weight] for model in models]),
        location=np.stack(each[: len(models)]),
        scale=np.stack(each[len(models) :]),
        df=np.array([model.df for model in models]),
    )


def training_bands(
    models: Sequence[FittedModel],
    target: Target,
    *,
    level: float = LEVEL,
    noise: bool = True,
    extra_sd: Array | float = 0.0,
    log_floor: Array | None = None,
) -> Bands:
    """Return medians and intervals of training, as `predictive_mixture` has it, in the response's unit.

    `log_floor`, () or (m,): the log of the least response that is possible.
    """
    mixture = predictive_mixture(models, target, noise=noise, extra_sd=extra_sd)
    if log_floor is not None:
        mixture = _plausible(mixture, log_floor)
    levels = (0.5 - level / 2, 0.5, 0.5 + level / 2)
    low, middle, high = (np.exp(mixture.quantile(p, above=log_floor)) for p in levels)
    return Bands(estimate=middle, low=low, high=high, sd=mixture.sd)


def _plausible(mixture: Mixture, log_floor: Array) -> Mixture:
    """Weigh distributions by how likely a device is so efficient, and replace those that are all below the floor.

    The weight is the share of devices and stacks that reach at least the efficiency that a distribution is centred at.
    """
    impossible = 1 - mixture.cdf(log_floor) < LEAST_POSSIBLE
    typical = log_floor - math.log(TYPICAL_EFFICIENCY)
    return replace(
        mixture,
        weight=mixture.weight * t_cdf((mixture.location - typical) / EFFICIENCY_SD, math.inf) + impossible,
        location=np.where(impossible, typical, mixture.location),
        scale=np.where(impossible, EFFICIENCY_SD, mixture.scale),
    )


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean, the standard deviation of single runs, and how many runs; `models` where it varies with the run."""

    mean: float
    sd: float
    n: int
    models: tuple[FittedModel, ...] = ()

    def half_width(self, level: float) -> float:
        """Half the prediction interval of one more run; the mean itself where there was only one to learn from."""
        if self.n < 2:
            return abs(self.mean)
        return t_quantile(0.5 + level / 2, self.n - 1) * self.sd * math.sqrt(1 + 1 / self.n)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted energy model: `fit.json` as dataclasses. `gpu_counts`: devices of its runs, where it says."""

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
    beyond: Mapping[str, float] = field(default_factory=dict)
    gpu_counts: tuple[int, ...] = ()
    session_sd: float = 0.0
    floor_j_per_flop: float = 0.0
    floor_s_per_flop: float = 0.0
    counting: Counting = field(default_factory=Counting)

    @property
    def explained(self) -> tuple[FittedModel, ...]:
        """The models of what the fit explains: energy, or time in a fit without models of energy."""
        return self.energy or self.time

    def predict(self, target: Target, level: float = LEVEL) -> Prediction:
        """Energy of the whole run in kWh: training by the mixture, plus the fixed part.

        Raises:
            UserError: the fit is of other hardware, or the target lacks a quantity that the fit needs.
        """
        joules = self._predict(self.energy, self.fixed_energy_j, target, level, self.log_floor_j(target))
        return Prediction(
            estimate=joules.estimate / JOULES_PER_KWH,
            low=joules.low / JOULES_PER_KWH,
            high=joules.high / JOULES_PER_KWH,
            extrapolates=joules.extrapolates,
        )

    def predict_time(self, target: Target, level: float = LEVEL) -> Prediction | None:
        """Seconds of the whole run; None for a fit without a model of time."""
        if not self.time:
            return None
        return self._predict(self.time, self.fixed_time_s, target, level, self.log_floor_s(target))

    def training(self, target: Target, level: float = LEVEL) -> Bands:
        """Return medians and intervals of training alone, without set-up and spread between sessions.

        They are joules, or seconds in a fit of times.
        """
        return training_bands(
            self.explained, target, level=level, extra_sd=self.form_sd(target), log_floor=self.log_floor(target)
        )

    def log_floor(self, target: Target) -> Array | None:
        """Return the log of the least that training can take of what the fit explains, () or (m,); None if unknown."""
        return self.log_floor_j(target) if self.energy else self.log_floor_s(target)

    def log_floor_j(self, target: Target) -> Array | None:
        """Return the log of the least joules that training can take, () or (m,); None if it is not known."""
        return _log_floor(self.floor_j_per_flop, target)

    def log_floor_s(self, target: Target) -> Array | None:
        """Return the same of seconds: on as many devices as the target has, or as the fit has seen at most."""
        floor = _log_floor(self.floor_s_per_flop, target)
        if floor is None:
            return None
        given = np.asarray(target.values.get("gpu_count", 1.0), dtype=float)
        counts = self.gpu_counts or (1,)
        return floor - np.log(np.where(np.isin(given, counts), given, max(counts)))

    def extrapolates(self, target: Target) -> tuple[dict[str, Any], ...]:
        """What of the target lies outside the data, by name, and how many times beyond the nearest end."""
        found: list[dict[str, Any]] = []
        for name, (low, high) in self.ranges.items():
            value = target.values.get(name)
            if value is None or not value > 0 or not low > 0:
                continue
            factor = max(value / high, low / value)
            if factor > _BEYOND:
                found.append({"variable": name, "factor": factor})
        for label, seen in (("method", self.methods), ("precision", self.precisions)):
            given = target.labels.get(label)
            if given is not None and seen and given not in seen:
                found.append({"variable": label, "factor": None})
        return tuple(found)

    def _predict(
        self,
        models: Sequence[FittedModel],
        fixed: Spread | None,
        target: Target,
        level: float,
        log_floor: Array | None,
    ) -> Prediction:
        self._check_hardware(target)
        # What is beyond a double is refused below.
        with np.errstate(all="ignore"), contextlib.suppress(ArithmeticError):
            prediction = self._prediction(models, fixed, target, level, log_floor)
            ends = (prediction.low, prediction.estimate, prediction.high)
            if all(map(math.isfinite, ends)) and 0 <= ends[0] <= ends[1] <= ends[2]:
                return prediction
        raise UserError(
            f"fit: got {self.path}, which predicts no possible number for this run; estimate without fit=, or fit again"
        )

    def _prediction(
        self,
        models: Sequence[FittedModel],
        fixed: Spread | None,
        target: Target,
        level: float,
        log_floor: Array | None,
    ) -> Prediction:
        extrapolates = self.extrapolates(target)
        unseen = sum(item["factor"] is None for item in extrapolates)
        extra_sd = math.hypot(UNSEEN_LABEL_SD * math.sqrt(unseen), float(self.form_sd(target)))
        low, middle, high = _quantiles(models, target, level, extra_sd, log_floor)
        fixed_low, fixed_middle, fixed_high = _fixed_quantiles(fixed, target, level)
        estimate = middle + fixed_middle
        low = max(low, estimate - math.hypot(middle - low, fixed_middle - fixed_low))
        high = estimate + math.hypot(high - middle, fixed_high - fixed_middle)
        session = NormalDist().inv_cdf(0.5 + level / 2) * self.session_sd  # of the whole run
        low = estimate * math.exp(-math.hypot(math.log(estimate / low), session)) if low > 0 else low
        return Prediction(
            estimate=estimate,
            low=low if log_floor is None else max(low, math.exp(float(log_floor))),
            high=estimate * math.exp(math.hypot(math.log(high / estimate), session)),
            extrapolates=extrapolates,
        )

    def form_sd(self, target: Target) -> Array:
        """Return the log-scale spread, () or (m,), for the unknown form outside the data.

        It is √Σ(rate · ln factor)² over the quantities of `beyond`, each `factor` beyond the nearest fitted run.
        """
        variance = np.zeros(())
        for name, rate in self.beyond.items():
            if name not in self.ranges or target.values.get(name) is None:
                continue
            low, high = np.log(self.ranges[name])
            x = np.log(target.value(name))
            variance = variance + (rate * np.maximum(0.0, np.maximum(x - high, low - x))) ** 2
        return np.sqrt(variance)

    def refuse_count(self, count: int) -> None:
        """Raise where the fit has not seen so many devices: how they share the work is not in it.

        Raises:
            UserError: it has not.
        """
        if self.gpu_counts and count not in self.gpu_counts:
            seen = ", ".join(map(str, self.gpu_counts))
            raise UserError(
                f"hardware.count: got {count}; {self.path} was fitted on runs of {seen}: estimate without fit=, or "
                "fit runs on as many, or see lora-scaling analyse extrapolate, which states a spread for it"
            )

    def refuse_unrecognised(self) -> None:
        """Raise for a run of a device that nobody knows: it may be another than the fit's.

        Raises:
            UserError: the fit says which device it is of.
        """
        if self.hardware:
            raise UserError(
                f"hardware: got auto, and no device was recognised here; {self.path} was fitted on "
                f"{', '.join(self.hardware)}: name the run's device with hardware="
            )

    def _check_hardware(self, target: Target) -> None:
        given = target.labels.get("hardware")
        if given is not None and self.hardware and not any(same_device(given, name) for name in self.hardware):
            raise UserError(
                f"fit: got {self.path}, fitted on {', '.join(self.hardware)}, not on {given}; "
                "efficiency does not carry over: estimate without fit=, or fit a sweep from that device"
            )


def _log_floor(per_flop: float, target: Target) -> Array | None:
    flops = target.values.get("flops")
    return None if flops is None or not per_flop > 0 else np.log(per_flop * np.asarray(flops, dtype=float))


def _quantiles(
    models: Sequence[FittedModel], target: Target, level: float, extra_sd: float, log_floor: Array | None = None
) -> tuple[float, float, float]:
    bands = training_bands(models, target, level=level, extra_sd=extra_sd, log_floor=log_floor)
    return float(bands.low[0]), float(bands.estimate[0]), float(bands.high[0])


def _fixed_quantiles(fixed: Spread | None, target: Target, level: float) -> tuple[float, float, float]:
    if fixed is None:
        return 0.0, 0.0, 0.0
    if fixed.models:
        return _quantiles(fixed.models, target, level, 0.0)
    half = fixed.half_width(level)
    return fixed.mean - half, fixed.mean, fixed.mean + half


def load_fit(path: str | Path) -> Fit:
    """Read a `fit.json`.

    Raises:
        UserError: it is not there, not JSON, not a fit, or of a schema this version does not know.
    """
    try:
        values = json.loads(read_text(Path(path)))
    except OSError as error:
        raise UserError(f"fit: got {path}, which cannot be read ({error.strerror}); give a fit.json") from None
    except (ValueError, RecursionError):
        raise UserError(f"fit: got {path}, which is not JSON; make one with lora-scaling analyse fit RUNS") from None
    if isinstance(values, dict) and values.get("kind") == TIME_FIT:
        raise UserError(
            f"fit: got {path}, which is fitted to times and knows no energy; predict the time with "
            "lora-scaling analyse extrapolate RUNS --response time, or estimate without fit="
        )
    if not isinstance(values, dict) or values.get("kind") != "energy_fit":
        raise UserError(f"fit: got {path}, which is not an energy fit; make one with lora-scaling analyse fit RUNS")
    if values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"fit: got {path} with schema_version {values.get('schema_version')!r:.40}; "
            f"this version reads {SCHEMA_VERSION}: fit again"
        )
    try:
        fit = fit_from_dict(values, str(path))
        _check_possible(fit)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"fit: got {path}, which is damaged ({error!r:.200}); fit again") from None
    return fit


def _check_possible(fit: Fit) -> None:
    """Raise ValueError for numbers that no fit has: others may have written the file."""
    spreads = [spread for spread in (fit.fixed_energy_j, fit.fixed_time_s) if spread is not None]
    for models in (fit.energy, fit.time, *(spread.models for spread in spreads)):
        for model in models:
            _check_possible_model(model)
        if models and not sum(model.weight for model in models) > 0:
            raise ValueError("no model has weight")
    for spread in spreads:
        _check_numbers("fixed", (spread.mean, spread.sd), least=0.0)
        if spread.n < 1:
            raise ValueError("fixed.n is below 1")
    _check_numbers("beyond", fit.beyond.values(), least=0.0)
    _check_numbers("session, floor", (fit.session_sd, fit.floor_j_per_flop, fit.floor_s_per_flop), least=0.0)
    for name, ends in fit.ranges.items():
        _check_numbers(f"ranges.{name}", ends)
        if name in fit.beyond and not ends[0] > 0:
            raise ValueError(f"ranges.{name} is not above 0")
    if not all(isinstance(label, str) for label in (*fit.methods, *fit.hardware, *fit.precisions)):
        raise TypeError("methods, hardware and precisions are lists of texts")


def _check_possible_model(model: FittedModel) -> None:
    _check_numbers("weight, sigma", (model.weight, model.sigma), least=0.0)
    _check_numbers("params", model.params.values())
    size = len(model.param_names)
    if [len(row) for row in model.covariance] != [size] * size:
        raise ValueError(f"covariance is not {size} × {size}")
    _check_numbers("covariance", (x for row in model.covariance for x in row))
    if not model.df > 0:
        raise ValueError("df is not above 0")
    for text in model.terms.values():
        if not parse_term(text).power > 0:
            raise ValueError(f"the power of {text} is not above 0")
    if model.noise is not None:
        low, high = model.noise.range
        _check_numbers("noise", (low, high, model.noise.reference, model.noise.exponent))
        if not (0 < low <= high and model.noise.reference > 0):
            raise ValueError("noise.range and noise.reference are not above 0")


def _check_numbers(name: str, values: Iterable[float], least: float = -math.inf) -> None:
    for value in values:
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"{name}: {value}")


def fit_from_dict(values: Mapping[str, Any], path: str = "fit.json") -> Fit:
    """The dataclasses from the parsed JSON; KeyError, TypeError or ValueError where something is amiss."""
    fixed = values.get("fixed") or {}
    time = values.get("time") or []
    explained = tuple(_model(item) for item in values["models"])
    if not explained:
        raise ValueError("it holds no model")
    beside = tuple(_model(item) for item in (time.get("models", []) if isinstance(time, dict) else time))
    of_time = values.get("kind") == TIME_FIT
    return Fit(
        energy=() if of_time else explained,
        time=explained if of_time else beside,
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
        beyond={name: float(rate) for name, rate in (values.get("beyond") or {}).items()},
        gpu_counts=tuple(int(count) for count in values.get("gpu_counts") or ()),
        session_sd=float((values.get("session") or {}).get("sd") or 0.0),
        floor_j_per_flop=float((values.get("floor") or {}).get("energy_j_per_flop") or 0.0),
        floor_s_per_flop=float((values.get("floor") or {}).get("time_s_per_flop") or 0.0),
        counting=_counting(values.get("counting")),
    )


def _counting(item: Mapping[str, Any] | None) -> Counting:
    found = dict(item or {})
    if not all(isinstance(flag, bool) for flag in found.values()):
        raise TypeError("counting holds true or false")
    return Counting(**found)


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
        noise=_noise(item.get("noise")),
    )


def _noise(item: Mapping[str, Any] | None) -> Noise | None:
    if not item:
        return None
    low, high = item["range"]
    return Noise(
        variable=str(item["variable"]),
        reference=float(item["reference"]),
        exponent=float(item["exponent"]),
        range=(float(low), float(high)),
    )


def _term_of(name: str) -> str:
    label = re.fullmatch(r"(?:C\()?(\w+)\)?\[(?:T\.)?(.+)\]", name)
    return _NAMED.get(name) or (f"{label.group(1)}={label.group(2)}" if label else name)


def _spread(item: Mapping[str, Any] | None) -> Spread | None:
    if not item or item.get("mean") is None:
        return None
    return Spread(
        mean=float(item["mean"]),
        sd=float(item.get("sd") or 0.0),
        n=int(item["n"]),
        models=tuple(_model(model) for model in item.get("models") or ()),
    )
