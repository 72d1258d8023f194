"""Re-export `analysis.claims.verdicts` under its old name, for one version."""

import warnings

from .claims.verdicts import Options

__all__ = ["Options"]

warnings.warn(
    "analysis.verdicts has moved: `from analysis import decide`, which takes `margin` and `level`",
    DeprecationWarning,
    stacklevel=2,
)
