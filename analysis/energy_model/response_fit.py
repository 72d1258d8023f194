"""Fit one response, energy or time, with the weighted family and with noise that may vary with the work."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ..arrays import Array
from ..regression.least_squares import Results
from ..tables.run_quantities import Work
from .family import family
from .regressions import FormFit, fit_forms, weigh

NOISE_LEAST_RUNS = 20
NOISE_P = 0.01
NOISE_LIMIT = 0.75
COVARIATES = ("adapter_rank", "batch_size")
COVARIATE_GAIN = 4.0  # AICc that an optional factor must gain to enter


@dataclass(frozen=True, kw_only=True)
class ResponseFit:
    """The weighted family for one response: (weight, fit) of each form, the best first.

    `noise` is (exponent, reference) if the spread varies with the work; `weights` (n,) are the regressions' own.
    """

    work: Work
    weighted: tuple[tuple[float, FormFit], ...]
    noise: tuple[float, float] | None
    weights: Array

    @property
    def best(self) -> FormFit:
        """The form with the largest weight."""
        return self.weighted[0][1]

    @property
    def results(self) -> Results:
        """statsmodels' results object of the best form."""
        return self.best.results

    @property
    def fitted(self) -> Array:
        """log of the best form's fitted response (n,)."""
        return self.work.log_y - self.best.resid


def fit_response(work: Work, least_per_flop: float = 0.0) -> ResponseFit:
    """Weigh the family on one response, and again if the residuals show that noise varies with the work."""
    weights = np.ones(len(work))
    weighted, covariates = _fit_family(work, weights, None, least_per_flop)
    noise = _noise_trend(work, weighted[0][1])
    if noise is not None:
        weights = (work.values[work.total] / noise[1]) ** (-2 * noise[0])
        weighted, _ = _fit_family(work, weights, covariates, least_per_flop)
    return ResponseFit(work=work, weighted=tuple(weighted), noise=noise, weights=weights)


def _fit_family(
    work: Work, weights: Array, covariates: Sequence[str] | None, least_per_flop: float
) -> tuple[list[tuple[float, FormFit]], Sequence[str]]:
    """Fit the weighted family, with the optional factors that improve it enough (or with those given)."""
    fits = fit_forms(work, family(work, covariates or ()), weights, least_per_flop)
    chosen = list(covariates or ())
    for name in COVARIATES if covariates is None else ():
        if not np.isfinite(work.values[name]).all() or work.levels(name) < 3:
            continue
        wider = fit_forms(work, family(work, [*chosen, name]), weights, least_per_flop)
        if wider and min(f.aicc for f in wider) < min(f.aicc for f in fits) - COVARIATE_GAIN:
            fits, chosen = wider, [*chosen, name]
    return weigh(fits), chosen


def _noise_trend(work: Work, fit: FormFit) -> tuple[float, float] | None:
    """Return (exponent, reference) of sigma ∝ work^exponent, if log squared residuals show it at p < NOISE_P.

    The log of a squared standard normal has variance π²/2, so the slope's standard error is known.
    """
    x = np.log(work.values[work.total])
    centred = x - x.mean()
    spread = float(centred @ centred)
    if len(work) < NOISE_LEAST_RUNS or spread < 1e-9 or fit.sigma < 1e-9:
        return None
    scaled = fit.resid / np.sqrt(np.maximum(1 - fit.leverage, 1e-3))
    floor = 1e-4 * fit.sigma**2
    slope = float(centred @ np.log(scaled**2 + floor)) / spread
    if abs(slope) / np.sqrt(np.pi**2 / 2 / spread) < -ndtri(NOISE_P / 2):
        return None
    return float(np.clip(slope / 2, -NOISE_LIMIT, NOISE_LIMIT)), float(np.exp(x.mean()))
