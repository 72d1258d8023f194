"""How a form of the family is fitted, and how the forms are weighed.

All forms are fitted to the same response, log E (dividing by tokens or FLOPs shifts it by a known number), so
their AICc are comparable (statistics.md). Nonlinear parameters are found by variable projection: the linear ones
are solved for at every trial value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lora_scaling.errors import UserError
from lora_scaling.estimate.terms import parse_term

from ..regression.least_squares import Array, CollinearError, influence, wls
from ..tables.run_quantities import Work
from .forms import Form, evaluate, per_values

SCAN_POINTS = 13
SCAN_ROWS = 400
NEWTON_STEPS = 40
POORLY_KNOWN = 1.5  # standard error of a log N_h above which its whole likelihood is kept, not a peak
PINNED_POINTS = 7
SCREEN_ROWS = 4000  # of more runs than this, a sample of this many rules out forms
HOPELESS_AICC = 25.0  # behind the best of the sample: all runs would put it further behind


@dataclass(frozen=True, kw_only=True)
class FormFit:
    """A fitted form. `covariance` (k, k) is ordered as `form.terms`; a pinned parameter has zeros there.

    `resid` and `leverage` (n,) belong to the fitted runs; `prior` is its share of the form's weight
    (below 1 where one form stands for several pinned values).
    """

    form: Form
    params: Mapping[str, float]
    covariance: Array
    df: int
    sigma: float
    rss: float
    aicc: float
    resid: Array
    leverage: Array
    prior: float = 1.0


def fit_forms(work: Work, forms: Sequence[Form], weights: Array) -> list[FormFit]:
    """All forms that can be fitted; empty where there are too few runs for even the simplest.

    Of very many runs a sample is fitted first, and forms that are hopeless there are not fitted to all.
    """
    if len(work) <= SCREEN_ROWS:
        return _fit_each(work, forms, weights)
    pick = np.sort(np.random.default_rng(0).choice(len(work), SCREEN_ROWS, replace=False))
    first = _fit_each(work.take(pick), forms, weights[pick])
    limit = min((fit.aicc for fit in first), default=np.inf) + HOPELESS_AICC
    kept = {fit.form.name for fit in first if fit.aicc <= limit}
    chosen = [form for form in forms if any(name == form.name or name.startswith(f"{form.name} at") for name in kept)]
    return _fit_each(work, chosen, weights)


def _fit_each(work: Work, forms: Sequence[Form], weights: Array) -> list[FormFit]:
    fits: list[FormFit] = []
    for form in forms:
        if len(work) < len(form.terms) + 2:
            continue
        try:
            fits += fit_form(work, form, weights)
        except CollinearError:
            continue
    return fits


def fit_form(work: Work, form: Form, weights: Array) -> list[FormFit]:
    """Fit one form; none where it degenerates into a simpler one, several where N_h is hardly known.

    Raises CollinearError where its parameters cannot be told apart.
    """
    curved = [name for name, term in form.terms.items() if parse_term(term).kind == "saturation"]
    if not curved:
        return [_solve(work, form, weights, {})]
    bounds = np.array([_bounds(work, parse_term(form.terms[name]).name) for name in curved])
    problem = _Problem(work=work, form=form, weights=weights, curved=tuple(curved))
    best = problem.minimise(bounds)
    if (best <= bounds[:, 0] + 1e-6).any():
        return []
    peak = _solve(work, form, weights, dict(zip(curved, best, strict=True)))
    if "log_half_size" not in curved:
        return [peak] if best[0] < bounds[0, 1] - 1e-6 else []
    position = list(form.terms).index("log_half_size")
    known = np.sqrt(peak.covariance[position, position]) < POORLY_KNOWN
    if known and (best < bounds[:, 1] - 1e-6).all():
        return [peak]
    return _pinned(work, form, weights, bounds[curved.index("log_half_size")]) if len(curved) == 1 else []


def _bounds(work: Work, name: str) -> tuple[float, float]:
    """Where a half-size or fixed cost can be: below, it changes less than 0.1 %; above, it is all there is."""
    logs = np.log(work.values[name])
    return float(logs.min() - np.log(1000.0)), float(logs.max() + np.log(10.0))


def _pinned(work: Work, form: Form, weights: Array, bounds: Array) -> list[FormFit]:
    """The form at fixed values of N_h, evenly in logs: together they stand for its whole likelihood."""
    points = np.linspace(bounds[0] + np.log(30.0), bounds[1], PINNED_POINTS)
    return [
        _solve(work, form, weights, {"log_half_size": float(point)}, pinned="log_half_size", prior=1 / PINNED_POINTS)
        for point in points
    ]


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Least squares in the curved parameters alone: the others are projected out."""

    work: Work
    form: Form
    weights: Array
    curved: tuple[str, ...]

    def minimise(self, bounds: Array) -> Array:
        """The curved parameters (q,) of least RSS inside `bounds` (q, 2): a scan, then Levenberg–Marquardt.

        Both on a sample first where there are very many runs.
        """
        point = self._scan(bounds)
        if len(self.work) > SCREEN_ROWS:
            pick = np.sort(np.random.default_rng(1).choice(len(self.work), SCREEN_ROWS, replace=False))
            sample = replace(self, work=self.work.take(pick), weights=self.weights[pick])
            point = sample._descend(point, bounds)
        return self._descend(point, bounds)

    def _descend(self, start: Array, bounds: Array) -> Array:
        """Levenberg–Marquardt from `start`."""
        basis, y, root = self._projection(self.work, self.weights)
        point, (rss, resid, slopes) = start, self._residuals(self.work, basis, y, root, start)
        damping = 1e-3
        for _ in range(NEWTON_STEPS):
            normal, gradient = slopes.T @ slopes, slopes.T @ resid
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), gradient)
            new = np.clip(point + np.clip(step, -2, 2), bounds[:, 0], bounds[:, 1])
            trial = self._residuals(self.work, basis, y, root, new)
            if trial[0] > rss:
                damping *= 10
                if damping > 1e8:
                    break
                continue
            moved, gain = float(np.abs(new - point).max()), rss - trial[0]
            point, (rss, resid, slopes), damping = new, trial, damping / 10
            if moved < 1e-7 or gain <= 1e-12 * rss:
                break
        return point

    def _scan(self, bounds: Array) -> Array:
        """The best of a coarse grid, on at most SCAN_ROWS runs."""
        pick = np.unique(np.linspace(0, len(self.work) - 1, min(len(self.work), SCAN_ROWS)).astype(int))
        some = self.work.take(pick)
        basis, y, root = self._projection(some, self.weights[pick])
        axes = [np.linspace(low, high, SCAN_POINTS) for low, high in bounds]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(bounds))
        added = np.zeros((len(some), len(grid)))
        for j, name in enumerate(self.curved):
            term = self.form.terms[name]
            columns = np.stack([evaluate(term, p, some)[0] for p in axes[j]], axis=1)
            added += columns[:, np.searchsorted(axes[j], grid[:, j] - 1e-9)]
        rest = root[:, None] * (y[:, None] - added)
        rest -= basis @ (basis.T @ rest)
        return grid[int(np.argmin(np.sum(rest**2, axis=0)))]

    def _projection(self, work: Work, weights: Array) -> tuple[Array, Array, Array]:
        root = np.sqrt(weights)
        linear = [term for name, term in self.form.terms.items() if name not in self.curved]
        design = np.column_stack([evaluate(term, 0.0, work)[1] for term in linear])
        u, s, _ = np.linalg.svd(root[:, None] * design, full_matrices=False)
        y = work.log_y - np.log(per_values(work, self.form.per))
        return u[:, s > 1e-10 * s[0]], y, root

    def _residuals(self, work: Work, basis: Array, y: Array, root: Array, point: Array) -> tuple[float, Array, Array]:
        parts = [evaluate(self.form.terms[name], p, work) for name, p in zip(self.curved, point, strict=True)]
        both = root[:, None] * np.column_stack([y - sum(part[0] for part in parts), *(part[1] for part in parts)])
        both -= basis @ (basis.T @ both)
        return float(both[:, 0] @ both[:, 0]), both[:, 0], both[:, 1:]


def _solve(
    work: Work, form: Form, weights: Array, curved: Mapping[str, float], *, pinned: str = "", prior: float = 1.0
) -> FormFit:
    """Linear parameters at the given curved ones; the covariance of all together, from the linearised model."""
    offset = np.log(per_values(work, form.per))
    columns, names = [], []
    for name, term in form.terms.items():
        added, slope = evaluate(term, curved.get(name, 0.0), work)
        if name in curved:
            offset = offset + added
        if name != pinned:
            columns.append(slope)
            names.append(name)
    design = np.column_stack(columns)
    free = [i for i, name in enumerate(names) if name not in curved]
    linear = wls(work.log_y - offset, design[:, free], weights, [names[i] for i in free])
    fit = linear if len(free) == len(names) else wls(linear.resid, design, weights, names)
    params = dict(curved) | {names[i]: float(value) for i, value in zip(free, linear.params, strict=True)}
    keep = [list(form.terms).index(name) for name in names]
    covariance = np.zeros((len(form.terms), len(form.terms)))
    covariance[np.ix_(keep, keep)] = fit.cov_params()
    rss, k, n = float(linear.ssr), len(form.terms) + 1, len(work)
    return FormFit(
        form=replace(form, name=f"{form.name} at {np.exp(curved[pinned]):.1g}") if pinned else form,
        params={name: params[name] for name in form.terms},
        covariance=covariance,
        df=n - len(form.terms),
        sigma=float(np.sqrt(rss / (n - len(form.terms)))),
        rss=rss,
        aicc=_aicc(rss, n, k, weights),
        resid=linear.resid,
        leverage=influence(fit).hat_matrix_diag,
        prior=prior,
    )


def _aicc(rss: float, n: int, k: int, weights: Array) -> float:
    """AICc (Hurvich & Tsai 1989) of a Gaussian model of log E with k parameters, the variance among them."""
    if n - k - 1 <= 0:
        return float("inf")
    likelihood = n * np.log(max(rss, 1e-300) / n) - float(np.sum(np.log(weights)))
    return float(likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def weigh(fits: Sequence[FormFit], *, least: float = 0.01) -> list[tuple[float, FormFit]]:
    """Akaike weights, those below `least` dropped, largest first.

    Raises UserError where nothing could be fitted.
    """
    if not fits:
        raise UserError("`runs` were too few or too alike for any model; make at least 3 runs that trained.")
    scores = np.array([fit.aicc for fit in fits])
    if not np.isfinite(scores).any():  # hardly more runs than parameters: the simplest, alone
        simplest = min(fits, key=lambda fit: len(fit.form.terms))
        return [(1.0, simplest)]
    prior = np.array([fit.prior for fit in fits])
    weights = np.where(np.isfinite(scores), prior * np.exp(-0.5 * (scores - scores[np.isfinite(scores)].min())), 0.0)
    weights /= weights.sum()
    weights = np.where(weights >= least, weights, 0.0)
    weights /= weights.sum()
    chosen = sorted(zip(weights, fits, strict=True), key=lambda pair: -pair[0])
    return [(float(weight), fit) for weight, fit in chosen if weight > 0]
