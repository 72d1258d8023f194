"""Recompute the grams of stored runs from their energy timelines.

Each changed result becomes a new revision of the run's record; the one before moves to `emissions_history`. A setting
that is not given stays as it was for the last revision, so that looking at grams changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_scaling.errors import RecordError, UnwritableError, UserError
from lora_scaling.grid.forecast import ForecastAdvice, forecast_window
from lora_scaling.grid.report import GramsOutcome
from lora_scaling.grid.revision import EmissionsRevision, compute_emissions
from lora_scaling.grid.settings import GridSettings
from lora_scaling.grid.timeline import EnergyBin, read_timeline
from lora_scaling.records import (
    TIMELINE_NAME,
    locked,
    missing_part,
    read_record,
    remove_stale_temporary_files,
    write_record,
)
from lora_scaling.records.model_card import write_card
from lora_scaling.records.sources import measured_share
from lora_scaling.settings import value_at
from lora_scaling.text import printable

# What may differ between two computations that found the same thing.
INCIDENTAL = ("revision", "computed_at", "retrieved_at", "url", "reason", "settings", "warnings")
# What a record holds for its own run alone: received from elsewhere, no address, path or time to wait is to be trusted.
NOT_FOLLOWED = ("base_url", "cache_dir", "file", "timeout_s", "max_wait_s")
# What chooses where intensities come from. Naming one of them anew leaves the others to the run's own configuration:
# the number, the file or the address of before would otherwise stand in for the zone that is asked for now.
CHOICE = ("provider", "zone", "file", "intensity_g_per_kwh")
QUALITY = ("pending", "static", "provisional", "final")


def recompute(path: Path, overrides: Mapping[str, Any]) -> GramsOutcome:
    """Recompute the grams of one record and write them where they are new; skip a record that cannot be recomputed."""
    run_id, emissions = "", None
    try:
        record = read_record(path)
        run_id, emissions = str(record["run_id"]), record.get("emissions")
        with locked(path.parent) as mine:
            if not mine:
                return GramsOutcome(path=path, run_id=run_id, change="skipped", emissions=None, note="it is running")
            remove_stale_temporary_files(path.parent)
            return _revise(path, dict(read_record(path)), overrides)
    except UnwritableError:
        note = f"{path.parent.parent} cannot be written: copy the runs to where they can be, to compute grams anew"
        return GramsOutcome(
            path=path, run_id=run_id, change="skipped", emissions=emissions, note=note, unwritable=True
        )  # fmt: skip
    except RecordError as error:
        return GramsOutcome(path=path, run_id=run_id, change="skipped", emissions=emissions, note=str(error))


def _revise(path: Path, record: dict[str, Any], overrides: Mapping[str, Any]) -> GramsOutcome:
    old: Mapping[str, Any] | None = record.get("emissions")
    run_id, energy = str(record["run_id"]), record.get("energy") or {}

    def outcome(change: str, emissions: Mapping[str, Any] | None, **more: Any) -> GramsOutcome:
        started_at = str(record.get("started_at") or "")
        return GramsOutcome(
            path=path, run_id=run_id, change=change, emissions=emissions, started_at=started_at,
            lacks=missing_part(record), measured=measured_share(record),
            trained=value_at(record, "work.steps") != 0, **more,
        )  # fmt: skip

    if not energy.get("timeline"):
        return outcome("skipped", old, note="it has no energy timeline")
    timeline = path.parent / TIMELINE_NAME
    if energy["timeline"] != TIMELINE_NAME or timeline.is_symlink():
        return outcome("skipped", old, note=f"its energy timeline is not a plain {TIMELINE_NAME} beside its record")
    if file := unfollowed_file(record, overrides):
        note = f"its intensities are of a file, and a record's paths are not followed: give grid.file={file}, or null"
        return outcome("kept" if old else "skipped", old, note=note)
    try:
        settings = GridSettings.from_mapping(settings_for(record, overrides))
    except UserError as error:
        return outcome("skipped", old, note=str(error), refused=True)
    bins = read_timeline(timeline)
    number = int(old["revision"]) if old else 0
    revision = _checked(compute_emissions(bins, settings, previous_revision=number), bins, energy)
    new = revision.to_dict()
    if old is not None and _worse(new, old, settings):
        return outcome("kept", old, note=f"the grid failed: {new['reason']}", settings=settings)
    if old is not None and same(new, old):
        return outcome("unchanged", old, note=new["reason"], settings=settings)
    record["emissions_history"] = [*(record.get("emissions_history") or []), *([old] if old else [])]
    record["emissions"] = new
    write_record(path, record)
    with contextlib.suppress(UnwritableError):  # the record has the grams
        write_card(path, record)
    return outcome("new", new, note=new["reason"], settings=settings)


def settings_for(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `grid` settings of a recomputation: the last revision's, or the run's own before any; overridden.

    Those of `NOT_FOLLOWED` are taken from the overrides alone, never from the record.
    """
    base = _settings_before(record, overrides)
    return {name: value for name, value in base.items() if name not in NOT_FOLLOWED} | dict(overrides)


def unfollowed_file(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> str | None:
    """Return the word for a shell of the file that the record's settings read; None if they or the overrides do not."""
    base = {**_settings_before(record, overrides), **overrides}
    if "file" in overrides or not base.get("file") or base.get("provider", "auto") not in ("auto", "file"):
        return None
    return shlex.quote(printable(str(base["file"])))


def _settings_before(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    own = _mapping(_mapping(record.get("config")).get("grid"))
    base = _mapping(_mapping(record.get("emissions")).get("settings")) or own
    if any(name in overrides for name in CHOICE):
        anew = {*CHOICE} - (set() if base.get("file") else {"zone"})  # a file's zone is a mere label
        base = {name: value for name, value in base.items() if name not in anew}
        base |= {name: value for name, value in own.items() if name in anew}
    return base


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _checked(revision: EmissionsRevision, bins: Sequence[EnergyBin], energy: Mapping[str, Any]) -> EmissionsRevision:
    """The revision, with a warning where the timeline does not hold the energy that the record states."""
    stated, held = energy.get("joules"), math.fsum(b.joules for b in bins)
    if stated is None or math.isclose(stated, held, rel_tol=0.01, abs_tol=0.5):
        return revision
    message = f"the timeline holds {held:.6g} J and the record {stated:.6g} J: the grams are of the former"
    warning = {"kind": "timeline_mismatch", "message": message}
    return dataclasses.replace(revision, warnings=(*revision.warnings, warning))


def same(new: Any, old: Any) -> bool:
    """Whether two revisions, or parts of them, say the same; numbers to rounding."""
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        keys = (set(new) | set(old)) - set(INCIDENTAL)
        return all(same(new.get(key), old.get(key)) for key in keys)
    if isinstance(new, (int, float)) and isinstance(old, (int, float)):
        return math.isclose(new, old, rel_tol=1e-9, abs_tol=1e-12)
    return new == old


def _worse(new: Mapping[str, Any], old: Mapping[str, Any], settings: GridSettings) -> bool:
    """Whether a grid failure would replace a better answer to the very same question."""
    question = (settings.resolved_provider, new["zone"], new["pue"])
    asked_before = (old.get("provider"), old.get("zone"), old.get("pue"))
    if new["reason"] is None or question != asked_before or old.get("status") not in QUALITY:
        return False
    return QUALITY.index(new["status"]) < QUALITY.index(old["status"])


def advice_for(outcomes: Sequence[GramsOutcome], *, forced: bool) -> ForecastAdvice | str | None:
    """Return advice on when to repeat the last run, a sentence on why there is none, or None where nobody asked."""
    asked = [o for o in outcomes if o.settings and o.emissions and (forced or o.settings.forecast)]
    if not asked:
        return "No advice on when to run: no run has an energy timeline." if forced else None
    last = max(asked, key=lambda o: o.started_at)
    assert last.settings is not None
    assert last.emissions is not None
    interval, energy_kwh = last.emissions["interval"], last.emissions["energy_kwh"]
    if not interval or energy_kwh is None or last.lacks:
        return f"No advice on when to run: the energy of {last.run_id} is not known."
    start, end = map(datetime.fromisoformat, interval)
    advice = forecast_window((end - start).total_seconds(), energy_kwh / last.emissions["pue"], last.settings)
    if advice is None:
        provider = last.settings.resolved_provider
        return f"No advice on when to run: provider {provider} makes no forecasts; set grid.zone, e.g. DK1."
    return advice
