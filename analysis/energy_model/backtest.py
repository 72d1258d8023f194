"""Fit on the cheaper part of a table, predict the more expensive part, and say how well that went.

The table is split in three ways: by energy (below the median against the rest), by model size (the smaller sizes
against the largest), and by length (fewer tokens against more). Each split has a horizon for every quantity: how far
the predicted runs lay beyond the fitted ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lora_scaling.errors import UserError
from lora_scaling.estimate.result import LEVEL
from lora_scaling.text import number

from ..arrays import Array
from ..tables.run_quantities import Work, group_levels, one_name_each, work_of
from .energy_fit import EnergyFit, TrainingResponse, between_sessions, fit_table, training_response
from .family import target_of_runs
from .response_kind import ENERGY_KIND, ResponseKind, kind_of
from .target import Z_90

LEAST_TRAINING = 4
LEAST_TESTED = 2
HORIZON_LIMIT = 2.0  # in logs: nothing is validated beyond twice what the backtest reached
LEAST_COVERAGE = 0.6
FEW_TESTED, MANY_TESTED = 4, 10
LARGE_ERROR = 0.1


@dataclass(frozen=True, kw_only=True)
class BacktestSplit:
    """One backtest.

    `table` has a row for each predicted run: run_id, observed_kwh, predicted_kwh, low_kwh, high_kwh (of a time: …_s),
    error (relative), z (log error over its predicted standard deviation, NaN if that is 0). `horizons` maps quantities
    to the largest factor by which a predicted run lay beyond the fitted ones. `excess` maps quantities to the log-scale
    spread, for each factor e beyond, by which the errors exceeded the prediction. `reason` says why a split could not
    be made; the rest is then empty.
    """

    name: str
    rule: str
    n_fitted: int
    table: pd.DataFrame
    horizons: dict[str, float]
    excess: dict[str, float]
    reason: str | None = None
    kind: ResponseKind = ENERGY_KIND

    @property
    def made(self) -> bool:
        return self.reason is None

    def column(self, name: str) -> pd.Series:
        """Return `observed`, `predicted`, `low` or `high` of each predicted run, in the response's unit."""
        return self.table[f"{name}_{self.kind.suffix}"]

    @property
    def coverage(self) -> float:
        inside = self.column("observed").between(self.column("low"), self.column("high"))
        return float(inside.mean()) if len(inside) else float("nan")

    @property
    def median_ape(self) -> float:
        return float(self.table["error"].abs().median()) if len(self.table) else float("nan")

    @property
    def worst(self) -> pd.Series | None:
        return self.table.iloc[int(self.table["error"].abs().to_numpy().argmax())] if len(self.table) else None

    def to_dict(self, *, runs: bool = True) -> dict[str, Any]:
        """Return the JSON form, without the single runs if `runs` is False."""
        if not self.made:
            return {"split": self.name, "rule": self.rule, "made": False, "reason": self.reason}
        worst = self.worst
        assert worst is not None
        document = {
            "split": self.name,
            "rule": self.rule,
            "made": True,
            "n_fitted": self.n_fitted,
            "n_predicted": len(self.table),
            "median_ape": self.median_ape,
            "worst": {"run_id": worst["run_id"], "error": float(worst["error"])},
            "bias": float(np.expm1(np.median(np.log(self.column("predicted") / self.column("observed"))))),
            "coverage": self.coverage,
            "level": LEVEL,
            "horizons": self.horizons,
        }
        return document | ({"runs": self.table.to_dict("records")} if runs else {})


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """All splits of one table."""

    splits: tuple[BacktestSplit, ...]

    @property
    def made(self) -> tuple[BacktestSplit, ...]:
        return tuple(split for split in self.splits if split.made)

    def horizon(self, quantity: str) -> float:
        """Return the largest factor beyond its data at which a quantity was predicted; 1 if none was."""
        return max((split.horizons.get(quantity, 1.0) for split in self.made), default=1.0)

    def excess(self, quantity: str) -> float | None:
        """Return the spread, per factor e beyond, by which errors exceeded the prediction; None if untested."""
        found = [split.excess[quantity] for split in self.made if quantity in split.excess]
        return max(found) if found else None

    @property
    def failed(self) -> tuple[BacktestSplit, ...]:
        """Return the splits that failed: intervals covered too few of many runs, or of some runs with large errors.

        All errors of a split share the error of its fit, so a low coverage of few runs says little by itself.
        """
        return tuple(
            split
            for split in self.made
            if split.coverage < LEAST_COVERAGE
            and (len(split.table) >= MANY_TESTED or (len(split.table) >= FEW_TESTED and split.median_ape > LARGE_ERROR))
        )

    def to_dict(self, *, runs: bool = True) -> dict[str, Any]:
        """Return the JSON form, with the split by energy first."""
        return {"level": LEVEL, "splits": [split.to_dict(runs=runs) for split in self.splits]}


def backtest(frame: pd.DataFrame, response: str = "energy_kwh") -> Backtest:
    """Backtest a table of runs (columns as `load_runs` gives them); splits that cannot be made say why."""
    frame = frame.assign(hardware=one_name_each(frame["hardware"]))
    training = training_response(frame, response)
    kind = kind_of(response)
    work, _, _ = work_of(frame, training.values)
    cheap = work.log_y < np.median(work.log_y) if len(work) else np.zeros(0, dtype=bool)
    rule = f"fitted below the median {kind.name}, predicted from it up"
    splits = [_split(frame, work, training, cheap, kind.name, rule)]
    for name, noun in ((work.size, "size"), (work.per, "length")):
        if name is None:
            continue
        rule = {
            "size": "fitted on the smaller models, predicted the largest",
            "length": f"fitted on fewer {work.per.replace('_', ' ')}, predicted the most",
        }[noun]
        levels, index = group_levels(work.values[name], 0.1) if len(work) else (np.zeros(0), np.zeros(0, dtype=int))
        if len(levels) < 3:
            splits.append(_not_made(noun, rule, f"`{name}` has {len(levels)} distinct values; 3 are needed"))
            continue
        cut = max(2, int(np.ceil(len(levels) * 0.6)))
        splits.append(_split(frame, work, training, index < cut, noun, rule))
    return Backtest(splits=tuple(splits))


def _split(
    frame: pd.DataFrame, work: Work, training: TrainingResponse, fitted: NDArray[np.bool_], name: str, rule: str
) -> BacktestSplit:
    if fitted.sum() < LEAST_TRAINING or (~fitted).sum() < LEAST_TESTED:
        return _not_made(
            name, rule, f"{int(fitted.sum())} runs to fit and {int((~fitted).sum())} to predict are too few"
        )
    rows = np.concatenate([work.row[fitted], np.setdiff1d(np.arange(len(frame)), work.row)])
    try:
        trained = fit_table(frame.iloc[rows], with_time=False, training=training.take(rows))
    except UserError as error:
        return _not_made(name, rule, str(error))
    test = work.take(~fitted)
    if trained.explained.work.per != work.per or trained.explained.work.size != work.size:
        return _not_made(name, rule, "the two parts know different quantities")
    test = _same_labels(test, trained)
    if len(test) < LEAST_TESTED:
        return _not_made(name, rule, "all runs to predict have a method, device or model that no fitted run has")
    sessions = frame["session"].iloc[work.row[fitted]]
    return _score(trained, test, name, rule, _session_sd(frame, sessions, test))


def _same_labels(test: Work, trained: EnergyFit) -> Work:
    """Return the runs whose labels the fit has seen. Other runs are scenarios, not extrapolations."""
    keep = np.ones(len(test), dtype=bool)
    for label, values in test.labels.items():
        keep &= np.isin(values.astype(str), trained.explained.work.labels[label].astype(str))
    return test.take(keep)


def _session_sd(frame: pd.DataFrame, fitted: pd.Series, test: Work) -> Array:
    """Return the spread (m,) that a prediction adds for runs whose session no fitted run (n,) had."""
    between = between_sessions(fitted.to_frame().assign(gpu_count=frame["gpu_count"]))
    new = ~frame["session"].iloc[test.row].isin(fitted).to_numpy()
    return np.where(new, between["sd"] if between else 0.0, 0.0)


def _score(trained: EnergyFit, test: Work, name: str, rule: str, session_sd: Array) -> BacktestSplit:
    target = target_of_runs(test)
    bands = trained.fit.training(target)
    low, high = (  # like `Fit.predict`, which adds the session
        bands.estimate * np.exp(side * np.hypot(np.log(end / bands.estimate), Z_90 * session_sd))
        for side, end in ((-1, bands.low), (1, bands.high))
    )
    sd = np.hypot(bands.sd, session_sd)
    observed = np.exp(test.log_y)
    log_error = np.log(observed / bands.estimate)
    kind = trained.kind
    columns = {"observed": observed, "predicted": bands.estimate, "low": low, "high": high}
    table = pd.DataFrame(
        {
            "run_id": test.run_ids,
            **{f"{column}_{kind.suffix}": values / kind.per_unit for column, values in columns.items()},
            "error": bands.estimate / observed - 1,
            "z": np.divide(log_error, sd, out=np.full(len(log_error), np.nan), where=sd > 0),
        }
    )
    fitted = trained.explained.work
    distances = {key: _beyond(test.values[key], fitted.values[key]) for key in _quantities(fitted)}
    return BacktestSplit(
        name=name,
        rule=rule,
        n_fitted=len(fitted),
        table=table,
        horizons={key: float(np.exp(distance.max())) for key, distance in distances.items()},
        excess=_excess(name, fitted, log_error, sd, distances),
        kind=kind,
    )


def _quantities(work: Work) -> list[str]:
    return list(dict.fromkeys(name for name in (work.total, work.size, work.per) if name))


def _excess(name: str, work: Work, log_error: Array, sd: Array, distances: dict[str, Array]) -> dict[str, float]:
    """√(Σ(error² − variance) / Σ distance²), at least 0, of the quantity by which the split was made."""
    quantity = {"size": work.size, "length": work.per}.get(name)
    if quantity is None:
        return {}
    distance = distances[quantity]
    reach = float(distance @ distance)
    if reach < 0.1:
        return {}
    return {quantity: float(np.sqrt(max(0.0, float(np.sum(log_error**2 - sd**2)) / reach)))}


def _beyond(values: Array, fitted: Array) -> Array:
    """Return the log distance of values outside the range of the fitted ones; 0 inside."""
    x, seen = np.log(values), np.log(fitted)
    return np.maximum(0.0, np.maximum(x - seen.max(), seen.min() - x))


def _not_made(name: str, rule: str, reason: str) -> BacktestSplit:
    return BacktestSplit(name=name, rule=rule, n_fitted=0, table=pd.DataFrame(), horizons={}, excess={}, reason=reason)


def summary(result: Backtest) -> list[str]:
    """Summarise in a few lines of text."""
    lines = []
    for split in result.splits:
        if not split.made:
            lines.append(f"{split.name:<8} not made: {split.reason}.")
            continue
        worst = split.worst
        assert worst is not None
        reach = ", ".join(f"{number(factor)}× in {key.replace('_', ' ')}" for key, factor in split.horizons.items())
        lines.append(
            f"{split.name:<8} {split.rule}: {split.n_fitted} → {len(split.table)} runs, median error "
            f"{100 * split.median_ape:.1f} %, worst {100 * float(worst['error']):+.1f} % ({worst['run_id']}), "
            f"{100 * split.coverage:.0f} % inside their 90 % interval; up to {reach} beyond the data."
        )
    return lines
