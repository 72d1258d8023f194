"""Slopes within groups are those of a regression with an indicator column for each group."""

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from analysis.regression.within_groups import within


def groups_of_runs(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A factor, a response, one column of shifts, and the groups of 24 runs in 6 groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(6), 4)
    x, shift = rng.normal(size=24), rng.integers(0, 2, 24).astype(float)
    y = 0.3 * x + 0.5 * shift + rng.normal(size=6)[group] + 0.1 * rng.normal(size=24)
    return x, y, shift, group


def test_the_slope_and_its_error_are_those_with_a_column_for_each_group() -> None:
    x, y, shift, group = groups_of_runs()
    estimate, resid = within(x, y, shift[:, None], group).slope()
    full = OLS(y, np.column_stack([x, shift, np.equal.outer(group, np.arange(6)).astype(float)])).fit()
    assert (estimate.value, estimate.se, estimate.df) == pytest.approx((full.params[0], full.bse[0], full.df_resid))
    assert resid == pytest.approx(full.resid)
    assert estimate.interval(0.9) == pytest.approx(full.conf_int(0.1)[0])
    assert 2 * estimate.p_above(0.0) == pytest.approx(full.pvalues[0])


def test_leverage_and_the_test_of_equal_slopes_are_those_with_a_column_for_each_group() -> None:
    x, y, shift, group = groups_of_runs()
    kind = group % 3
    y = y + 0.06 * x * kind
    found = within(x, y, shift[:, None], group)
    indicators = np.equal.outer(group, np.arange(6)).astype(float)
    own = x[:, None] * np.equal.outer(kind, np.arange(3))
    apart = OLS(y, np.column_stack([own, shift, indicators])).fit()
    together = OLS(y, np.column_stack([x, shift, indicators])).fit()
    assert found.equal_slopes_p(kind) == pytest.approx(apart.compare_f_test(together)[1])
    resid, leverage = found.slopes_apart(kind)
    assert resid == pytest.approx(apart.resid)
    assert leverage == pytest.approx(apart.get_influence().hat_matrix_diag)


def test_what_cannot_be_told_has_no_error_and_no_test() -> None:
    x, y, _, group = groups_of_runs()
    same_as_shift, _ = within(x, y, x[:, None], group).slope()
    assert np.isnan(same_as_shift.se)
    assert within(x, y, np.zeros((24, 0)), group).equal_slopes_p(np.zeros(24, dtype=np.intp)) is None


def test_exact_data_are_equal_or_not_without_a_division_by_zero() -> None:
    x, _, _, group = groups_of_runs()
    kind, none = group % 3, np.zeros((24, 0))
    assert within(x, 0.3 * x, none, group).equal_slopes_p(kind) == 1.0
    assert within(x, 0.3 * x * (1 + kind), none, group).equal_slopes_p(kind) == 0.0
