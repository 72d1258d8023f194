"""Which rows are of finished runs: a status in words, an exit status, or a column that says yes or no."""

import re

import pandas as pd

from .parsing import texts_of

_EXIT = frozenset("exit_code exitcode exit_status return_code returncode rc".split())
_FINISHED = frozenset("completed complete finished success succeeded successful is_finished done ok".split())
_FAILED = frozenset(
    "failed crashed aborted error_occurred is_failed sys_failed killed oom interrupted diverged".split()
)
_YES = frozenset({"true", "yes", "1", "1.0", "ja", "y", "oui", "x"})
_NO = frozenset({"false", "no", "0", "0.0", "nej", "nein", "n", "non", ""})


def with_status(raw: pd.DataFrame, kept: frozenset[str]) -> pd.DataFrame:
    """Add `status` from a column that says whether a run was finished, where the table has none."""
    plain = {re.sub(r"[^a-z0-9]+", "_", str(name).strip().lower()): str(name) for name in raw.columns}
    if {"status", "state"} & set(plain):
        return raw
    for short, name in plain.items():
        if name in kept or short not in _EXIT | _FINISHED | _FAILED:
            continue
        words = texts_of(raw[name]).str.lower()
        if short in _EXIT:
            codes = pd.to_numeric(words.str.partition(":")[0], errors="coerce")  # Slurm writes 0:0
            good = codes == 0
            if codes.isna().any():
                continue
        elif words.isin(_YES | _NO).all():
            good = words.isin(_YES) if short in _FINISHED else words.isin(_NO)
        else:
            continue
        if not good.any():
            continue
        said = f"{short} " + words
        return raw.assign(status=said.where(~good, "ok")).drop(columns=name)
    return raw
