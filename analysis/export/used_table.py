"""The table as used: every run with its response, fitted value and residual, and every row left out with the reason."""

import numpy as np
import pandas as pd

from lora_scaling.errors import UserError
from lora_scaling.text import inert

from ..energy_model.energy_fit import fit_table
from ..tables.table import DERIVED_COLUMNS, RunTable

FIRST = ("study", "run_id", "samples", "epochs", "samples_seen")


def used_table(table: RunTable) -> pd.DataFrame:
    """Return one row for each run and for each row left out.

    `explained` is the part of the response that the fit is of: without set-up and evaluation, where these are known.
    `fitted` and `ratio` (explained ÷ fitted, 1 for a perfect fit) are empty where no form could be fitted, or the run
    did not train; `left_out` is the reason, empty for runs that were used.
    """
    frame = table.frame
    known = [name for name in frame if frame[name].notna().any() and name not in DERIVED_COLUMNS]
    order = [*(name for name in FIRST if name in known), *(name for name in known if name not in FIRST)]
    rows = frame[order].assign(response=frame[table.response], response_column=table.response)
    rows = rows.join(_fitted(table)).assign(left_out="")
    if table.excluded:
        out = pd.DataFrame([{"run_id": item.run_id, "left_out": item.reason} for item in table.excluded])
        rows = pd.concat([rows, out], ignore_index=True)
    return rows


def _fitted(table: RunTable) -> pd.DataFrame:
    """Return the best form's fitted values, in the unit of the response, by row of the frame."""
    rows = pd.DataFrame({"explained": np.nan, "fitted": np.nan, "ratio": np.nan}, index=table.frame.index)
    try:
        fit = fit_table(table.frame, table.excluded, response=table.response, with_time=False)
    except UserError:
        return rows
    used = table.frame.index[fit.explained.work.row]
    rows.loc[used, "explained"] = np.exp(fit.explained.work.log_y) / fit.kind.per_unit
    rows.loc[used, "fitted"] = np.exp(fit.explained.fitted) / fit.kind.per_unit
    return rows.assign(ratio=rows["explained"] / rows["fitted"])


def to_csv(rows: pd.DataFrame) -> str:
    """Write rows as CSV in which no cell is a formula to a spreadsheet."""
    texts = rows.select_dtypes(exclude="number").columns
    cells = {name: rows[name].map(lambda cell: inert(cell) if isinstance(cell, str) else cell) for name in texts}
    return rows.assign(**cells).rename(columns=inert).to_csv(index=False, lineterminator="\n")
