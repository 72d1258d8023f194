"""What runs tell about the exponents of a fitted curve: the tangent model that further runs are planned on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from .curve_analysis import Analysis
from .least_squares import Array
from .power_law import CurveFit

LEAST_SHARE = 1e-3  # of a fixed cost: on its boundary at 0 the tangent would claim to know it


class DesignPoint(Protocol):
    """A run that could be made; `zero` has no optimizer steps."""

    @property
    def samples(self) -> float: ...
    @property
    def epochs(self) -> float: ...
    @property
    def zero(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Tangent:
    """The curve linearised at its fit, with the fit's weights; k parameters: exponents, shares, what shifts a run."""

    analysis: Analysis

    @cached_property
    def _fit(self) -> CurveFit:
        fit = self.analysis.fit
        shares = np.where(np.abs(fit.shares) < LEAST_SHARE, LEAST_SHARE, fit.shares)
        return replace(fit, shares=shares, once=np.maximum(fit.once, LEAST_SHARE))

    @cached_property
    def _shifts(self) -> Array:
        """Combinations (q, r) of the nuisance columns that can be told apart."""
        _, scale, combinations = np.linalg.svd(self._fit.data.nuisance, full_matrices=False)
        return combinations[scale > 1e-9 * scale[0]].T

    @cached_property
    def information(self) -> Array:
        """Information of the runs made so far (k, k), in 1/σ²."""
        data = self._fit.data
        rows = np.column_stack([self._fit.slopes(data.log_x, data.zero, data.cell), data.nuisance @ self._shifts])
        rows *= np.sqrt(data.weights)[:, None]
        return rows.T @ rows

    def rows(self, settings: Sequence[DesignPoint]) -> Array:
        """Return what a run of each setting would add (m, k), if it is otherwise like most of the runs.

        Its information is the row's outer product with itself.
        """
        data, factors = self._fit.data, self.analysis.design.factors
        log_x = np.log(np.array([[getattr(one, name) for name in factors] for one in settings], dtype=float))
        zero = np.array([one.zero for one in settings])
        cell = np.full(len(zero), int(np.bincount(data.cell).argmax()), dtype=np.int64)
        shift = np.zeros((len(zero), data.nuisance.shape[1]))
        shift[np.arange(len(zero)), cell] = 1.0  # the cells come first; no other session, the middle of the order
        rows = np.column_stack([self._fit.slopes(log_x, zero, cell), shift @ self._shifts])
        rows[zero & (self.analysis.idle_left_out | (self._fit.shares[cell] <= 0))] = 0.0  # such runs tell nothing
        return rows * np.sqrt(self._weight(self._fit.log_size(log_x, zero, cell)))[:, None]

    def _weight(self, log_size: Array) -> Array:
        """Return weights (m,) of runs of such a size: if small runs scatter more, log weight is a line in log size.

        A meter's rounding adds a variance that falls with the square of the size.
        """
        data = self._fit.data
        if data.least_sigma > 0:
            size = self._fit.log_size(data.log_x, data.zero, data.cell)
            return 1 / (1 + float(np.median((1 / data.weights - 1) * np.exp(2 * size))) * np.exp(-2 * log_size))
        if not self.analysis.weighted:
            return np.ones(len(log_size))
        slope, level = np.polyfit(self._fit.log_size(data.log_x, data.zero, data.cell), np.log(data.weights), 1)
        return np.exp(level + slope * log_size)


def inverse_of(information: Array) -> Array:
    """Return variances and covariances of the parameters, in σ²."""
    return np.asarray(np.linalg.pinv(information, rcond=1e-12, hermitian=True), dtype=np.float64)


def gain(inverse: Array, row: Array, parameter: int) -> float:
    """Return the drop of a parameter's variance (in σ²) when a run is added: the rank-one update of the inverse."""
    v = inverse @ row
    return float(v[parameter] ** 2 / (1 + row @ v))
