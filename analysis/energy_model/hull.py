"""Find whether a point lies inside the convex hull of the data, and if not, how far outside."""

import numpy as np
from scipy.optimize import nnls

from ..arrays import Array

NEAR = 1e-6
SUM_WEIGHT = 1e4  # how strongly the convex weights are held to sum to one


def hull_factor(points: Array, target: Array) -> float | None:
    """Return exp of the distance from `target` (k,) to the hull of `points` (n, k), all in logs; None inside.

    The nearest point of the hull is a convex combination of the points: least squares with weights ≥ 0 that sum to 1
    (Lawson & Hanson's NNLS, with the sum as a heavy row). It needs no triangulation, so it works in any dimension and
    for points on a line.
    """
    points = np.unique(np.round(points, 9), axis=0)
    if len(points) > 2000:  # only the outermost matter
        points = _outermost(points)
    design = np.vstack([points.T, SUM_WEIGHT * np.ones(len(points))])
    weights, _ = nnls(design, np.append(target, SUM_WEIGHT), maxiter=50 * len(points))
    distance = float(np.linalg.norm(points.T @ (weights / weights.sum()) - target))
    return float(np.exp(distance)) if distance > max(NEAR, 0.005) else None


def _outermost(points: Array) -> Array:
    """Return the extreme points in many directions, which span almost the same hull."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((512, points.shape[1]))
    return points[np.unique(np.argmax(directions @ points.T, axis=1))]
