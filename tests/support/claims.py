"""One claim decided by itself."""

import pandas as pd

from analysis.claims.context import ClaimContext
from analysis.claims.registry import CLAIMS
from analysis.claims.verdicts import Claim, Options
from analysis.tables.checks import check_rows, suspicious
from analysis.tables.response import choose_response
from analysis.tables.table import table_from_frame


def decided_alone(frame: pd.DataFrame, claim_id: str) -> Claim:
    """Decide one claim: no others are decided, which could make it give way, and nothing is warned of."""
    response = choose_response(table_from_frame(frame))
    suspects = suspicious(check_rows(response.frame), len(response.frame))
    [asked] = [asked for asked in CLAIMS if asked.id == claim_id]
    return asked.decide(ClaimContext(response, Options(), suspects))
