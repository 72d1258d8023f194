"""Fit each form of the family by statsmodels' weighted least squares, and weigh the forms by AICc.

All forms are fitted to the same response, log E (dividing by tokens or FLOPs shifts it by a known number), so their
AICc are comparable. scipy's least squares finds the parameters that enter non-linearly. statsmodels then fits the form
linearised at these values, which has the same estimates, residuals and asymptotic covariance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import orth
from scipy.optimize import least_squares
from statsmodels.iolib.summary import summary_params
from statsmodels.iolib.table import SimpleTable
from statsmodels.tools.eval_measures import aicc

from lora_scaling.errors import UserError
from lora_scaling.estimate.terms import parse_term

from ..arrays import Array
from ..regression.least_squares import CollinearError, Results, influence, wls
from ..tables.run_quantities import Work
from .family import Form, evaluate, per_values, scan

CURVED = ("saturation", "roofline", "cost")
SCAN_POINTS = 13
SCAN_ROWS = 400
POORLY_KNOWN = 1.5  # standard error of log N_h above which the whole likelihood is kept, not only its peak
# Twice the log-likelihood by which a half-size must beat the largest that is possible, or its whole likelihood is kept:
# the peak's curvature says nothing of a likelihood that hardly falls on one side.
OPEN_ENDED = 12.0
# A power of the FLOPs that is almost flat: launches take the energy of these runs, which no larger model keeps to. The
# rooflines say so, and fit as well.
FLAT, FLAT_PRIOR = 0.5, 0.2
HELD_SPACING = np.log(2.0)  # of held values of log N_h
SCREEN_ROWS = 4000  # with more runs than this, a sample of this size rules out forms
HOPELESS_AICC = 25.0  # behind the best on the sample; with all runs, it would be even further behind
COLLINEAR = 1e-10  # singular values below this share of the largest are rounding
EXACT_LOG_LIKELIHOOD = 345.0  # per run, if the residuals are 0: as if their squares were 1e-300


@dataclass(frozen=True, kw_only=True)
class FormFit:
    """A fitted form.

    `results` is statsmodels' results object: the regression of log(response / per) on the form's columns, linearised
    if a parameter enters non-linearly. `held` are parameters that were fixed beforehand: they have no variance and are
    not in `results`. `prior` is the fit's share of the weight of its form (below 1 if several held values represent one
    form).
    """

    form: Form
    results: Results
    held: Mapping[str, float] = field(default_factory=dict)
    prior: float = 1.0

    @property
    def params(self) -> dict[str, float]:
        """Estimates by name, in the form's order."""
        found = dict(zip(self.results.model.exog_names, map(float, self.results.params), strict=True)) | {**self.held}
        return {name: found[name] for name in self.form.terms}

    @property
    def covariance(self) -> Array:
        """Covariance (k, k) in the form's order; 0 for parameters that were held."""
        names = list(self.form.terms)
        free = [names.index(name) for name in self.results.model.exog_names]
        covariance = np.zeros((len(names), len(names)))
        covariance[np.ix_(free, free)] = self.results.cov_params()
        return covariance

    @property
    def df(self) -> int:
        """Residual degrees of freedom; held parameters count as estimated."""
        return int(self.results.nobs) - len(self.form.terms)

    @property
    def sigma(self) -> float:
        """Residual standard deviation of log response, for a run of weight 1."""
        return float(np.sqrt(self.results.ssr / self.df))

    @property
    def resid(self) -> Array:
        """Residuals (n,) of log response."""
        return self.results.resid

    @cached_property
    def leverage(self) -> Array:
        """Diagonal (n,) of the hat matrix."""
        return np.asarray(influence(self.results).hat_matrix_diag)

    def coefficient_table(self, level: float = 0.95) -> SimpleTable:
        """Return statsmodels' table of the coefficients: estimate, standard error, t, p, interval at this level.

        Print it with `as_text()` or `as_html()`. It does not include held parameters.
        """
        return summary_params(self.results, alpha=round(1 - level, 9), use_t=True)

    @cached_property
    def aicc(self) -> float:
        """AICc (Hurvich & Tsai 1989) of a Gaussian model of log E, the variance counted as a parameter."""
        n, k = int(self.results.nobs), len(self.form.terms) + 1
        if n - k - 1 <= 0:
            return float("inf")
        return float(aicc(self.results.llf if self.results.ssr > 0 else EXACT_LOG_LIKELIHOOD * n, n, k))


def fit_forms(work: Work, forms: Sequence[Form], weights: Array, least_per_flop: float = 0.0) -> list[FormFit]:
    """Fit all forms that the runs identify; empty if the runs are too few for even the simplest.

    `least_per_flop` is the least response for a FLOP that is possible (0: unknown): it bounds how far utilisation can
    still rise.

    With very many runs, a sample is fitted first, and forms that are hopeless there are not fitted to all runs.
    """
    if len(work) <= SCREEN_ROWS:
        return _fit_each(work, forms, weights, least_per_flop)
    pick = np.sort(np.random.default_rng(0).choice(len(work), SCREEN_ROWS, replace=False))
    first = _fit_each(work.take(pick), forms, weights[pick], least_per_flop)
    limit = min((fit.aicc for fit in first), default=np.inf) + HOPELESS_AICC
    kept = {fit.form.name for fit in first if fit.aicc <= limit}
    chosen = [form for form in forms if any(name == form.name or name.startswith(f"{form.name} at") for name in kept)]
    return _fit_each(work, chosen, weights, least_per_flop)


def _fit_each(work: Work, forms: Sequence[Form], weights: Array, least_per_flop: float) -> list[FormFit]:
    fits: list[FormFit] = []
    for form in forms:
        if len(work) < len(form.terms) + 2:
            continue
        try:
            fits += fit_form(work, form, weights, least_per_flop)
        except CollinearError:
            continue
    return fits


def fit_form(work: Work, form: Form, weights: Array, least_per_flop: float = 0.0) -> list[FormFit]:
    """Fit one form. Return no fit if it degenerates into a simpler form, and several if N_h is hardly known.

    Raises CollinearError if its parameters are not identified.
    """
    curved = [name for name, term in form.terms.items() if parse_term(term).kind in CURVED]
    if not curved:
        results = _regress_form(work, form, weights)
        flat = work.total == "flops" and dict(zip(form.terms, results.params, strict=True)).get("gamma", 1.0) < FLAT
        return [FormFit(form=form, results=results, prior=FLAT_PRIOR if flat else 1.0)]
    bounds = np.array([_bounds(work, parse_term(form.terms[name]).name, least_per_flop) for name in curved])
    estimate = _estimate(work, form, weights, curved, bounds)
    at_most = estimate > bounds[:, 1] - 1e-3
    if (estimate < bounds[:, 0] + 1e-3).any():
        return []
    fit = FormFit(form=form, results=_regress_form(work, form, weights, dict(zip(curved, estimate, strict=True))))
    if "log_half_size" not in curved:
        return [] if at_most.any() else [fit]
    position = list(form.terms).index("log_half_size")
    ceiling = dict(zip(curved, [bounds[0, 1], *estimate[1:]], strict=True))
    loss = len(work) * np.log(float(_regress_form(work, form, weights, ceiling, held=True).ssr) / fit.results.ssr)
    if fit.results.bse[position] < POORLY_KNOWN and loss > OPEN_ENDED and not at_most.any():
        return [fit]
    return _held(work, form, weights, *bounds[0]) if len(curved) == 1 else []


def _bounds(work: Work, name: str, least_per_flop: float) -> tuple[float, float]:
    """Return where a half-size or fixed cost can be: below, it changes less than 0.1 %; above, it is all there is.

    A half-size N_h ends where its plateau, the response per token ÷ N_h, would go below what a FLOP takes at least.
    """
    logs = np.log(work.values[name])
    high = float(logs.max() + np.log(10.0))
    if name == "flops_per_token" and least_per_flop > 0:
        high = max(high, float(np.median(work.log_y - np.log(work.values["tokens"]))) - float(np.log(least_per_flop)))
    return float(logs.min() - np.log(1000.0)), high


def _held(work: Work, form: Form, weights: Array, low: float, high: float) -> list[FormFit]:
    """Fit the form at fixed values of N_h, evenly spaced in logs, which together represent its whole likelihood."""
    fits = []
    low += np.log(30.0)
    points = np.linspace(low, high, int(np.ceil((high - low) / HELD_SPACING)) + 1)
    for point in points:
        held = {"log_half_size": float(point)}
        results = _regress_form(work, form, weights, held, held=True)
        name = f"{form.name} at {np.exp(point):.1g}"
        fits.append(FormFit(form=replace(form, name=name), results=results, held=held, prior=1 / len(points)))
    return fits


def _regress_form(
    work: Work, form: Form, weights: Array, at: Mapping[str, float] | None = None, *, held: bool = False
) -> Results:
    """Fit a form linearised in its non-linear parameters `at` these values, or with these parameters held."""
    at = dict(at or {})
    _, columns = evaluate(form.terms, dict.fromkeys(form.terms, 0.0) | at, work)
    y = work.log_y - np.log(per_values(work, form.per)) - evaluate({name: form.terms[name] for name in at}, at, work)[0]
    for name, value in at.items():
        if held:
            del columns[name]
        else:
            y = y + value * columns[name]
    return wls(y, np.column_stack(list(columns.values())), weights, list(columns))


def _estimate(work: Work, form: Form, weights: Array, curved: Sequence[str], bounds: Array) -> Array:
    """Estimate the non-linear parameters (q,) within `bounds` (q, 2), by least squares from the best of a grid."""
    pick = np.unique(np.linspace(0, len(work) - 1, min(len(work), SCAN_ROWS)).astype(int))
    some = _Projected(work=work.take(pick), form=form, weights=weights[pick], curved=curved)
    every = _Projected(work=work, form=form, weights=weights, curved=curved)
    start = some.best_of([np.linspace(low, high, SCAN_POINTS) for low, high in bounds])
    options: dict[str, Any] = {"method": "dogbox", "ftol": 1e-12, "xtol": 1e-10, "gtol": None}
    return least_squares(every.residuals, start, jac=every.jacobian, bounds=bounds.T, **options).x  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class _Projected:
    """Weighted residuals as functions of only the non-linear parameters (q,).

    The linear parameters are projected out (variable projection, Golub & Pereyra 1973).
    """

    work: Work
    form: Form
    weights: Array
    curved: Sequence[str]

    def residuals(self, point: Array) -> Array:
        """Return the residuals (n,)."""
        return self._response - self._unexplained(self._at(point)[0])

    def jacobian(self, point: Array) -> Array:
        """Return their derivatives (n, q)."""
        slopes = self._at(point)[1]
        return -self._unexplained(np.column_stack([slopes[name] for name in self.curved]))

    def best_of(self, axes: Sequence[Array]) -> Array:
        """Return the point (q,) of least squares on the grid of these axes."""
        rest, order = self._response, []
        for names in self._together():
            values = np.meshgrid(*(axes[self.curved.index(name)] for name in names), indexing="ij")
            terms = {name: self.form.terms[name] for name in names}
            added = self._unexplained(scan(terms, dict(zip(names, map(np.ravel, values), strict=True)), self.work))
            shape = (len(added), *(1,) * len(order), *values[0].shape)
            rest = rest[(..., *(None,) * len(names))] - added.reshape(shape)
            order += names
        place = np.unravel_index(np.argmin(np.sum(rest**2, axis=0)), rest.shape[1:])
        return np.array([axis[place[order.index(name)]] for name, axis in zip(self.curved, axes, strict=True)])

    def _together(self) -> list[list[str]]:
        """Return the non-linear parameters by the logarithm in which they stand: costs are in the same one."""
        costs = [name for name in self.curved if parse_term(self.form.terms[name]).kind == "cost"]
        return [*([name] for name in self.curved if name not in costs), *([costs] if costs else [])]

    def _at(self, point: Array) -> tuple[Array, dict[str, Array]]:
        terms = {name: self.form.terms[name] for name in self.curved}
        return evaluate(terms, dict(zip(self.curved, point, strict=True)), self.work)

    @cached_property
    def _response(self) -> Array:
        return self._unexplained(self.work.log_y - np.log(per_values(self.work, self.form.per)))

    @cached_property
    def _basis(self) -> Array:
        linear = {name: term for name, term in self.form.terms.items() if name not in self.curved}
        design = np.column_stack(list(evaluate(linear, dict.fromkeys(linear, 0.0), self.work)[1].values()))
        return orth(np.sqrt(self.weights)[:, None] * design, rcond=COLLINEAR)

    def _unexplained(self, columns: Array) -> Array:
        weighted = (np.sqrt(self.weights) * columns.T).T
        return weighted - self._basis @ (self._basis.T @ weighted)


def weigh(fits: Sequence[FormFit], *, least: float = 0.01) -> list[tuple[float, FormFit]]:
    """Return Akaike weights with their fits, largest first; forms below `least` are dropped.

    A form that is fitted at several held values is dropped or kept as one, less the values below `least` of it.

    Raises UserError if nothing could be fitted.
    """
    if not fits:
        raise UserError("RUNS: too few or too alike for any model; make at least 3 runs that trained")
    scores = np.array([fit.aicc for fit in fits])
    if not np.isfinite(scores).any():  # hardly more runs than parameters, so take only the simplest
        simplest = min(fits, key=lambda fit: len(fit.form.terms))
        return [(1.0, simplest)]
    prior = np.array([fit.prior for fit in fits])
    weights = np.where(np.isfinite(scores), prior * np.exp(-0.5 * (scores - scores[np.isfinite(scores)].min())), 0.0)
    weights /= weights.sum()
    _, form = np.unique([fit.form.name.partition(" at ")[0] for fit in fits], return_inverse=True)
    of_form = np.bincount(form, weights=weights)[form]
    weights = np.where((of_form >= least) & (weights >= least * of_form), weights, 0.0)
    weights /= weights.sum()
    chosen = sorted(zip(weights, fits, strict=True), key=lambda pair: -pair[0])
    return [(float(weight), fit) for weight, fit in chosen if weight > 0]
