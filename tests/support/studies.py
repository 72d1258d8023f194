"""An adaptive study of known truth: its plan, and the table that its runs would leave."""

import numpy as np
import pandas as pd

from analysis.adaptive import Study
from analysis.tables.table import RunTable, table_from_frame
from lora_scaling.adaptive import Point

LEVELS = (64, 128, 256, 512, 1024)
STUDY = Study(claim="linear_in_samples", margin=0.05, level=0.95, levels=LEVELS, at=1, seed=0)


def table(points: list[Point] | tuple[Point, ...], *, b: float = 1.0, cv: float = 0.01, seed: int = 0) -> RunTable:
    rng = np.random.default_rng(seed)
    seen = np.array([0 if p.zero else p.samples * p.epochs for p in points], dtype=float)
    kwh = 1e-5 * (32.0 + seen**b) * np.exp(cv * rng.standard_normal(len(points)))
    frame = pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(len(points))],
            "status": "ok",
            "order": range(len(points)),
            "samples": [p.samples for p in points],
            "epochs": [p.epochs for p in points],
            "samples_seen": seen,
            "steps": np.ceil(seen / 8),
            "energy_kwh": kwh,
            "total_s": kwh * 1e4,
        }
    )
    return table_from_frame(frame)
