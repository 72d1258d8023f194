"""Write a table in the JSON-lines format of Extra-P (`extrap --json …`)."""

import json
from collections.abc import Iterator

import pandas as pd

PARAMETERS = ("samples", "epochs", "rank", "params")


def extrap_lines(frame: pd.DataFrame, response: str) -> Iterator[str]:
    """Return one JSON object per run: `params` are the factors that vary, `metric` and `value` the response.

    Runs of zero steps are left out, because the terms of Extra-P's models have no value at 0 samples.
    """
    rows = frame[frame["samples_seen"] > 0]
    varied = [name for name in PARAMETERS if rows[name].notna().all() and rows[name].nunique() > 1]
    names = varied or ["samples"]
    for _, row in rows.iterrows():
        callpath = "/".join(str(row[name]) for name in ("model", "method", "hardware") if isinstance(row[name], str))
        yield json.dumps(
            {
                "params": {name: float(row[name]) for name in names},
                "callpath": callpath or "run",
                "metric": response,
                "value": float(row[response]),
            }
        )
