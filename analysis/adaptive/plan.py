"""Which runs tell most about an exponent per kWh: c-optimality on the fitted curve, one run after another."""

import math
import random
from dataclasses import replace

import numpy as np
import pandas as pd

from lora_scaling.adaptive import Point

from ..claims.context import CurveSet, decide_profile
from ..claims.next_runs import energy_line
from ..regression.fisher_information import Tangent, gain, inverse_of
from ..tables.table import RunTable
from .study import Study


def next_runs(
    study: Study,
    curves: CurveSet,
    table: RunTable,
    *,
    count: int,
    kwh_left: float = math.inf,
    seconds_left: float = math.inf,
) -> tuple[Point, ...]:
    """Up to `count` runs, each the one that tells most about the exponent per kWh given those before it.

    A run that lies far off the curve and sways the verdict is repeated first. Without a curve to plan by
    (a gate) the points are taken in turn.
    """
    usable = curves.blocks[study.factor] is None
    points = _priced(study, table.frame, zero=bool((curves.response.frame["samples_seen"] <= 0).any()))
    information, rows, exponent = np.eye(1), np.ones((len(points), 1)), 0
    if usable:
        tangent = Tangent(analysis=curves.total)
        information, rows = tangent.information, tangent.rows(points)
        exponent = curves.design.factors.index(study.factor)
    again = _outlier(study, curves) if usable else None
    chosen: list[Point] = []
    while len(chosen) < count:
        fits = [
            i for i, p in enumerate(points) if (p.energy_kwh or 0.0) <= kwh_left and (p.seconds or 0.0) <= seconds_left
        ]
        if not fits:
            break
        repeats = [i for i in fits if points[i].key == again]
        again = None
        if repeats:
            best = repeats[0]
        elif usable:
            inverse = inverse_of(information)
            best = max(fits, key=lambda i: gain(inverse, rows[i], exponent) / (points[i].energy_kwh or 1.0))
        else:
            best = fits[len(chosen) % len(fits)]
        information = information + np.outer(rows[best], rows[best])
        kwh_left -= points[best].energy_kwh or 0.0
        seconds_left -= points[best].seconds or 0.0
        chosen.append(points[best])
    random.Random(f"{study.seed}/{len(table.frame)}").shuffle(chosen)
    return tuple(chosen)


def _priced(study: Study, frame: pd.DataFrame, *, zero: bool) -> list[Point]:
    """The runs that can be made, with the energy and time that the runs so far let expect."""
    kwh = energy_line(frame)
    seconds = energy_line(frame.assign(energy_kwh=frame["total_s"]))
    points = []
    for point in [*map(study.point, study.levels), *([study.zero] if zero else [])]:
        work = 0 if point.zero else point.samples * point.epochs
        points.append(replace(point, energy_kwh=_known(kwh(work)), seconds=_known(seconds(work))))
    return points


def _known(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _outlier(study: Study, curves: CurveSet) -> tuple[int, int, bool] | None:
    """The setting of a run far off the curve on which the verdict hangs: repeated first."""
    analysis, margin = curves.total, study.margin
    if analysis.outlier is None or analysis.without is None:
        return None
    found = [
        decide_profile(each.profile(study.factor), 1 - margin, 1 + margin, curves.options).verdict
        for each in (analysis, analysis.without)
    ]
    if found[0] == found[1]:
        return None
    row = curves.design.frame.iloc[analysis.outlier]
    return int(row["samples"]), int(row["epochs"]), bool(row["samples_seen"] == 0)
