"""Predictions for many runs at once: the same mixture of t as `lora_scaling.estimate.fit_file`, vectorised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from lora_scaling.estimate.fit_file import FittedModel
from lora_scaling.estimate.result import LEVEL

from ..regression.least_squares import Array
from .forms import evaluate, per_values

BISECTIONS = 80


@dataclass(frozen=True, kw_only=True)
class Bands:
    """Medians and interval ends for m runs, each (m,), in the response's unit; `sd` (m,) is on the log scale."""

    estimate: Array
    low: Array
    high: Array
    sd: Array


def predict_many(
    models: Sequence[FittedModel],
    values: Mapping[str, Array],
    labels: Mapping[str, NDArray[np.object_]],
    *,
    level: float = LEVEL,
    noise: bool = True,
    extra_sd: Array | float = 0.0,
) -> Bands:
    """Medians and intervals of new runs (or, without `noise`, of their mean) from a fit's models.

    `extra_sd` is log-scale spread added to every model, as `Fit.form_sd` gives it.
    """
    location, scale = np.array([_component(model, values, labels, noise, extra_sd) for model in models]).swapaxes(0, 1)
    weight = np.array([model.weight for model in models])
    weight = weight / weight.sum()
    df = np.array([model.df for model in models])
    low, middle, high = (
        np.exp(mixture_quantiles(weight, location, scale, df, p)) for p in (0.5 - level / 2, 0.5, 0.5 + level / 2)
    )
    centre = weight @ location
    variance = weight @ (scale**2 + (location - centre) ** 2)
    return Bands(estimate=middle, low=low, high=high, sd=np.sqrt(variance))


def mixture_quantiles(weight: Array, location: Array, scale: Array, df: Array, probability: float) -> Array:
    """Quantiles (m,) of mixtures of c t-distributions: weight (c,), location and scale (c, m), df (c,)."""
    scale = np.maximum(scale, 1e-12)
    reach = np.abs(_t_quantile(probability, df))[:, None] * scale
    low, high = (location - reach).min(axis=0) - 1e-9, (location + reach).max(axis=0) + 1e-9
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        below = weight @ stdtr(df[:, None], (middle - location) / scale) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        if float(np.max(high - low)) < 1e-12:
            break
    return 0.5 * (low + high)


def _component(
    model: FittedModel,
    values: Mapping[str, Array],
    labels: Mapping[str, NDArray[np.object_]],
    noise: bool,
    extra_sd: Array | float,
) -> tuple[Array, Array]:
    parts = [evaluate(model.terms[name], model.params[name], values, labels) for name in model.param_names]
    location = np.log(per_values(values, model.per)) + sum(part[0] for part in parts)
    gradient = np.stack([part[1] for part in parts])  # (k, m)
    variance = np.einsum("im,ij,jm->m", gradient, np.array(model.covariance), gradient)
    sigma = np.zeros_like(location)
    if noise:
        sigma = sigma + model.sigma
        if model.noise is not None:
            low, high = model.noise.range
            x = values[model.noise.variable]
            x = np.minimum(x, high) if model.noise.exponent < 0 else np.maximum(x, low)
            sigma = sigma * (x / model.noise.reference) ** model.noise.exponent
    return location, np.sqrt(np.maximum(variance, 0.0) + sigma**2 + np.square(extra_sd))


def _t_quantile(probability: float, df: Array) -> Array:
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, probability))
