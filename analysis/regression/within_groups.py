"""Runs compared with those that are alike in everything but one factor: its slope within such groups."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.regression.linear_model import OLS

from .estimate import IntervalEstimate
from .least_squares import Array, Results, span
from .sessions import session_columns

ROUNDING = 1e-12  # of a factor's variance: what is left of it is no variation


@dataclass(frozen=True, kw_only=True)
class LevelEffects:
    """The log effect of each further level of a factor against its lowest, and the F test's p of their line."""

    effects: tuple[IntervalEstimate, ...]
    line_p: float


@dataclass(frozen=True, kw_only=True)
class Within:
    """n runs about the means of their groups: a factor `x`, log response `y` (n,), and what else shifts a run.

    `shifts` (n, r) is an orthonormal basis: sessions within a few groups are often alike. `group` (n,) numbers the
    groups, `size` (n,) counts the runs of a run's group.
    """

    x: Array
    y: Array
    shifts: Array
    group: NDArray[np.intp]
    size: Array

    def _project_out(self, column: Array) -> Array:
        return column - self.shifts @ (self.shifts.T @ column)

    @cached_property
    def own(self) -> Array:
        """What of the factor (n,) is not a shift of another kind."""
        return self._project_out(self.x)

    @property
    def share(self) -> float:
        """The share of the factor's variance that is its own; 0 where it does not vary."""
        spread = float(self.x @ self.x)
        return float(self.own @ self.own) / spread if spread > 0 else 0.0

    @property
    def df(self) -> int:
        """Degrees of freedom of the scatter about one slope."""
        return self._df_of(1)

    def _df_of(self, slopes: int) -> int:
        return len(self.x) - round(float(np.sum(1 / self.size))) - self.shifts.shape[1] - slopes

    def _regress(self, slopes: Array) -> Results:
        """Regress y on columns of slopes (n, k) and the shifts; the groups' means have taken degrees of freedom too."""
        columns = np.concatenate([slopes, self.shifts], axis=1)
        model = OLS(self.y, columns)
        model.df_resid = self._df_of(slopes.shape[1])
        return model.fit()

    def slope(self) -> tuple[IntervalEstimate, Array]:
        """Return the slope of y on the factor, and residuals (n,).

        Where the factor is but a shift of another kind, the slope is what the runs show together with it, of unknown
        error.
        """
        spread = float(self.x @ self.x)
        if self.share < ROUNDING:
            value = float(self.x @ self.y) / spread if spread > 0 else math.nan
            return IntervalEstimate(value=value, se=math.nan, df=0), self._project_out(self.y)
        if self.df < 1:
            value = float(self.own @ self.y) / float(self.own @ self.own)
            return IntervalEstimate(value=value, se=math.nan, df=0), self._project_out(self.y) - value * self.own
        fit = self._regress(self.x[:, None])
        return IntervalEstimate(value=float(fit.params[0]), se=float(fit.bse[0]), df=self.df), fit.resid

    def _slopes_of(self, kind: NDArray[np.intp]) -> Array:
        """Return a basis (n, k) of a slope for each kind (n,) of run, beside the shifts."""
        return span(self._project_out(self.x[:, None] * np.equal.outer(kind, np.arange(kind.max(initial=-1) + 1))))

    def slopes_apart(self, kind: NDArray[np.intp]) -> tuple[Array, Array]:
        """Return residuals (n,) where each kind (n,) of run has a slope of its own, and leverage (n,).

        Leverage, the diagonal of the hat matrix, is how far each run draws that fit to itself.
        """
        basis = self._slopes_of(kind)
        columns = np.concatenate([basis, self.shifts], axis=1)  # orthonormal
        return self.y - columns @ (columns.T @ self.y), 1 / self.size + np.sum(columns**2, axis=1)

    def equal_slopes_p(self, kind: NDArray[np.intp]) -> float | None:
        """Return the F test's p of one slope for all kinds (n,) of run; None where the runs cannot tell."""
        basis = self._slopes_of(kind)
        if basis.shape[1] < 2 or self._df_of(basis.shape[1]) < 1:
            return None
        return self._nested_p(self._regress(basis), self._regress(self.x[:, None]))

    def _nested_p(self, larger: Results, smaller: Results) -> float:
        """Return the F test's p of a regression that is nested in a larger one."""
        most = ROUNDING * float(self.y @ self.y)
        if larger.ssr <= most:  # exact data
            return 0.0 if smaller.ssr - larger.ssr > most else 1.0
        return float(larger.compare_f_test(smaller)[1])

    def level_effects(self, level: NDArray[np.intp]) -> LevelEffects | None:
        """Estimate each level (n,) of the factor against level 0; None where the runs cannot tell them all apart."""
        indicators = np.equal.outer(level, np.arange(1, level.max(initial=0) + 1)).astype(float)
        indicators = _about_means(indicators, self.group)
        df, columns = self._df_of(indicators.shape[1]), np.concatenate([indicators, self.shifts], axis=1)
        if df < 1 or span(columns).shape[1] < columns.shape[1]:
            return None
        fit = self._regress(indicators)
        effects = tuple(
            IntervalEstimate(value=float(value), se=float(se), df=df)
            for value, se in zip(fit.params[: indicators.shape[1]], fit.bse, strict=False)
        )
        straight = indicators.shape[1] < 2
        return LevelEffects(
            effects=effects, line_p=1.0 if straight else self._nested_p(fit, self._regress(self.x[:, None]))
        )


def _about_means(columns: Array, group: NDArray[np.intp]) -> Array:
    """Return columns (n, k) about their means in each group (n,)."""
    count = np.bincount(group)
    means = np.column_stack([np.bincount(group, column, len(count)) / np.maximum(count, 1) for column in columns.T])
    return columns - means[group]


def within(x: Array, y: Array, shifts: Array, group: NDArray[np.intp]) -> Within:
    """Take runs about the means of their groups; `shifts` (n, q) are any columns that shift a run."""
    columns = _about_means(np.column_stack([x, y, shifts]), group)
    size = np.bincount(group)[group].astype(float)
    return Within(x=columns[:, 0], y=columns[:, 1], shifts=span(columns[:, 2:]), group=group, size=size)


def within_rows(rows: pd.DataFrame, y: str) -> Within:
    """Take runs with a `factor` and a `group` of matched work, for the response column `y`; sessions shift a run."""
    group = pd.factorize(rows["group"])[0]
    log_y = np.log(rows[y].to_numpy(dtype=float))
    return within(rows["factor"].to_numpy(dtype=float), log_y, session_columns(rows), group)


def within_slope(rows: pd.DataFrame, y: str) -> tuple[IntervalEstimate, Array]:
    """Return the slope of log y on `factor` within groups (sessions as fixed effects), and residuals (n,)."""
    return within_rows(rows, y).slope()
