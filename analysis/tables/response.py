"""Which number is explained: total energy, a part of it, or time; and what of it was measured."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lora_scaling.records.sources import SourceKind, source_kind
from lora_scaling.records.timeline import COMPONENTS

from .meter_step import meter_steps
from .parsing import RunWarning
from .response_column import is_energy, noun_of
from .table import RunTable

NOTHING_METERED = " It rests on time × a modelled power: nothing was metered."  # ends a reason


@dataclass(frozen=True, kw_only=True)
class Response:
    """`frame` is the table with the response in `y` (and the measured part in `y_measured`, NaN if none).

    `y_step` is the step of its meter, 0 where none shows. `noun` names it in sentences, `column` is its source.
    `modelled`: no component was measured.
    """

    frame: pd.DataFrame
    noun: str
    column: str
    modelled: bool
    measured_noun: str | None
    measured_share: float | None
    measured_gap: str | None
    warnings: tuple[RunWarning, ...]

    @property
    def of_whole_runs(self) -> bool:
        """Whether runs that did not train have it, too: no part of a run that is training alone."""
        return self.column not in ("train_s", "energy_train_kwh")


def choose_response(table: RunTable) -> Response:
    """Choose the response column of `table`, without the setup phase where a cache made that unequal."""
    response = _choose(table)
    return replace(response, frame=response.frame.assign(y_step=meter_steps(response.frame)))


def _choose(table: RunTable) -> Response:
    frame = table.frame.copy()
    frame["y"] = frame[table.response]
    frame["y_measured"] = np.nan
    noun = response_noun(table)
    if not is_energy(table.response):
        return _plain(frame, noun, table.response)
    if table.response == "energy_gpu_kwh":
        return _plain(frame, noun, table.response, modelled=_all_modelled(frame, ("gpu",)))
    warnings: list[RunWarning] = []
    setup_differs = False
    if table.response == "energy_kwh":
        frame, setup_differs, found = _without_unequal_setup(frame)
        warnings += found
        noun = "energy without setup" if setup_differs and not found[0].kind.endswith("unknown") else noun
    modelled = _all_modelled(frame, COMPONENTS)
    if modelled:
        message = (
            "No part of the energy was metered: it is time × a modelled power, "
            "so every verdict on energy is a verdict on time."
        )
        warnings.append(RunWarning(kind="modelled_energy", message=message))
    measured_noun, share, gap = None, None, None
    if not modelled and table.response == "energy_kwh":
        measured_noun, share, gap = _measured_part(frame, setup_differs)
    return Response(
        frame=frame,
        noun=noun,
        column=table.response,
        modelled=modelled,
        measured_noun=measured_noun,
        measured_share=share,
        measured_gap=gap,
        warnings=tuple(warnings),
    )


def response_noun(table: RunTable, column: str | None = None) -> str:
    """Name the response of a table, or a `column` that is a part of it, in sentences."""
    column = column or table.response
    named = {"train_s": "training time", "energy_gpu_kwh": "GPU energy", "energy_train_kwh": "training energy"}
    if column in named:
        whole = column == "train_s" and any(warning.kind == "whole_time" for warning in table.warnings)
        return "time" if whole else named[column]
    if column != "energy_kwh":
        return {"total_s": "time"}.get(column, noun_of(column))
    kinds = {warning.kind for warning in table.warnings}
    if "gpu_only" in kinds:
        return "GPU energy"
    missing = "gpu_energy_missing" in kinds and table.frame["energy_gpu_kwh"].isna().all()
    return "energy without the GPU's" if missing else "energy"


def _plain(frame: pd.DataFrame, noun: str, column: str, *, modelled: bool = False) -> Response:
    return Response(
        frame=frame,
        noun=noun,
        column=column,
        modelled=modelled,
        measured_noun=None,
        measured_share=None,
        measured_gap=None,
        warnings=(),
    )


def _without_unequal_setup(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool, list[RunWarning]]:
    """Take the setup phase off where some runs found model or tokens in their process's cache."""
    reused = frame["setup_reused"].map(lambda flag: flag is True)
    if not reused.any() or reused.all():
        return frame, False, []
    ids = tuple(frame["run_id"][reused])
    rest = frame["energy_kwh"] - frame["energy_setup_kwh"]
    if rest.isna().any() or (rest <= 0).any():
        message = (
            "Some runs reused a model or tokens already in memory and others did not, and the setup phase "
            "is not known for all: their totals are not quite comparable."
        )
        return frame, True, [RunWarning(kind="setup_unknown", message=message, run_ids=ids)]
    message = (
        f"{len(ids)} of {len(frame)} runs reused a model or tokens already in memory, so setup was unequal: "
        "the claims are decided on energy without the setup phase."
    )
    return frame.assign(y=rest), True, [RunWarning(kind="setup_reused", message=message, run_ids=ids)]


def source_kinds(frame: pd.DataFrame, component: str) -> pd.Series:
    """Classify a component's source in each run; `none` where the table names neither a source nor any energy."""
    named, energy = frame[f"energy_source_{component}"], frame[f"energy_{component}_kwh"]
    kinds = [
        source_kind(name) if isinstance(name, str) else "unknown" if joules > 0 else "none"
        for name, joules in zip(named, energy, strict=True)
    ]
    return pd.Series(kinds, index=frame.index, dtype=object)


def _kinds(frame: pd.DataFrame, component: str) -> set[SourceKind]:
    return {*source_kinds(frame, component)} - {"none"}


def _all_modelled(frame: pd.DataFrame, components: tuple[str, ...]) -> bool:
    """Whether sources are known and every one of them is a model."""
    return set[str]().union(*(_kinds(frame, component) for component in components)) == {"modelled"}


def _measured_part(frame: pd.DataFrame, setup_differs: bool) -> tuple[str | None, float | None, str | None]:
    """Fill `y_measured` in place; the part's name, its share of the total, or why there is none."""
    measured = [
        component
        for component in COMPONENTS
        if _kinds(frame, component) == {"measured"} and bool((frame[f"energy_{component}_kwh"] > 0).all())
    ]
    if not measured:
        return None, None, "it is not known which part of the energy was metered"
    part = frame[[f"energy_{component}_kwh" for component in measured]].sum(axis=1)
    if setup_differs:
        setup = frame["energy_setup_kwh"]
        if not bool((setup <= 0.01 * frame["energy_kwh"]).all()):
            return None, None, "the setup phase was unequal and is not known by component"
    frame["y_measured"] = part
    noun = " + ".join(component.upper() for component in measured)
    return noun, float((part / frame["energy_kwh"]).median()), None


def measured_sentence(response: Response, measured: dict[str, Any] | None) -> str:
    """Which part a verdict rests on, for the end of a reason."""
    if response.modelled:
        return NOTHING_METERED
    if not measured or "part" not in measured:
        return ""
    part = f"{measured['part']}, {100 * measured['share']:.0f} % of it" if "share" in measured else measured["part"]
    return f" On the metered part alone ({part}): {measured['verdict']}."
