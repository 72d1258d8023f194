"""Re-export `analysis.tables.table` under its old name, for one version."""

import warnings

from .tables.table import load_runs, table_from_frame

__all__ = ["load_runs", "table_from_frame"]

warnings.warn(
    "analysis.table has moved: `from analysis import load_runs`, which takes a data frame as well",
    DeprecationWarning,
    stacklevel=2,
)
