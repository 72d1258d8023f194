"""Runs compared with those that are alike in everything but one factor: its slope within such groups."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import fdtrc

from .curve_analysis import session_columns
from .estimate import Estimate
from .least_squares import Array, span

ROUNDING = 1e-12  # of a factor's variance: what is left of it is no variation


@dataclass(frozen=True, kw_only=True)
class Within:
    """n runs about the means of their groups: a factor `x`, log response `y` (n,), and what else shifts a run.

    `shifts` (n, r) is an orthonormal basis: sessions within a few groups are often alike. `size` (n,) counts the runs
    of a run's group.
    """

    x: Array
    y: Array
    shifts: Array
    size: Array

    def _beside(self, column: Array) -> Array:
        return column - self.shifts @ (self.shifts.T @ column)

    @cached_property
    def own(self) -> Array:
        """What of the factor (n,) is not a shift of another kind."""
        return self._beside(self.x)

    @property
    def share(self) -> float:
        """The share of the factor's variance that is its own; 0 where it does not vary."""
        spread = float(self.x @ self.x)
        return float(self.own @ self.own) / spread if spread > 0 else 0.0

    @property
    def df(self) -> int:
        """Degrees of freedom of the scatter about one slope."""
        return len(self.x) - round(float(np.sum(1 / self.size))) - self.shifts.shape[1] - 1

    def slope(self) -> tuple[Estimate, Array]:
        """Slope of y on the factor, and residuals (n,).

        Where the factor is but a shift of another kind, the slope is what the runs show together with it, of unknown
        error.
        """
        spread = float(self.x @ self.x)
        if self.share < ROUNDING:
            value = float(self.x @ self.y) / spread if spread > 0 else math.nan
            return Estimate(value=value, se=math.nan, df=0), self._beside(self.y)
        value = float(self.own @ self.y) / float(self.own @ self.own)
        resid = self._beside(self.y) - value * self.own
        se = math.sqrt(float(resid @ resid) / self.df / float(self.own @ self.own)) if self.df > 0 else math.nan
        return Estimate(value=value, se=se, df=max(self.df, 0)), resid

    def apart(self, kind: NDArray[np.intp]) -> tuple[Array, Array]:
        """Residuals (n,) where each kind (n,) of run has a slope of its own, and a basis (n, k) of these slopes."""
        columns = self.x[:, None] * np.equal.outer(kind, np.arange(kind.max(initial=-1) + 1))
        basis = span(self._beside(columns))
        y = self._beside(self.y)
        return y - basis @ (basis.T @ y), basis

    def leverage(self, basis: Array) -> Array:
        """How far each run draws the fit to itself (n,): the diagonal of the hat matrix, for a basis of slopes."""
        return 1 / self.size + np.sum(self.shifts**2, axis=1) + np.sum(basis**2, axis=1)

    def alike(self, kind: NDArray[np.intp]) -> float | None:
        """F test's p of one slope for all kinds (n,) of run; None where the runs cannot tell."""
        resid, basis = self.apart(kind)
        spent = basis.shape[1] - 1
        df = self.df - spent
        if df < 1 or spent < 1:
            return None
        together = self.slope()[1]
        rest, most = float(resid @ resid), ROUNDING * float(self.y @ self.y)
        more = float(together @ together) - rest
        if rest <= most:
            return 0.0 if more > most else 1.0
        return float(fdtrc(spent, df, max(more, 0.0) / spent / (rest / df)))


def within(x: Array, y: Array, shifts: Array, group: NDArray[np.intp]) -> Within:
    """Runs about the means of their groups; `shifts` (n, q) are any columns that shift a run."""
    count = np.bincount(group)
    columns = np.column_stack([x, y, shifts])
    means = np.column_stack([np.bincount(group, column, len(count)) / np.maximum(count, 1) for column in columns.T])
    columns = columns - means[group]
    return Within(x=columns[:, 0], y=columns[:, 1], shifts=span(columns[:, 2:]), size=count[group].astype(float))


def within_rows(rows: pd.DataFrame, y: str) -> Within:
    """Runs with a `factor` and a `group` of matched work, for the response column `y`; sessions shift a run."""
    group = pd.factorize(rows["group"])[0]
    log_y = np.log(rows[y].to_numpy(dtype=float))
    return within(rows["factor"].to_numpy(dtype=float), log_y, session_columns(rows), group)


def within_slope(rows: pd.DataFrame, y: str) -> tuple[Estimate, Array]:
    """Slope of log y on `factor` within groups of matched work (sessions as fixed effects), and residuals (n,)."""
    return within_rows(rows, y).slope()
