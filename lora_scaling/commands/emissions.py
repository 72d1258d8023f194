"""`python -m lora_scaling.emissions RUNS [grid.zone=DK1 …]`: (re)compute grams from stored energy timelines.

Each changed result becomes a new revision of the run's record; the one before moves to `emissions_history`. What is
not said on the command line is as it was for the last revision: looking at grams changes nothing.
A grid that fails changes no exit status: the table says what stands in, and why.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_scaling.commands.arguments import Parser, reader_may_leave
from lora_scaling.errors import LoraScalingError, RecordError, UnwritableError, UserError
from lora_scaling.grid import (
    EmissionsRevision,
    EnergyBin,
    ForecastAdvice,
    GridSettings,
    compute_emissions,
    forecast_window,
    read_timeline,
)
from lora_scaling.grid.report import Outcome, document, render
from lora_scaling.grid.zones import find_place
from lora_scaling.records import find_records, locked, missing_part, read_record, write_record

# What may differ between two computations that found the same thing.
INCIDENTAL = ("revision", "computed_at", "retrieved_at", "url", "reason", "settings", "warnings")
# What chooses where intensities come from. Naming one of them anew leaves the others to the run's own configuration:
# the number, the file or the address of before would otherwise stand in for the zone that is asked for now.
CHOICE = ("provider", "zone", "file", "intensity_g_per_kwh")
QUALITY = ("pending", "static", "provisional", "final")


@reader_may_leave()
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit status is 0 on success and on grid failures, 2 on bad input."""
    try:
        return _run(_arguments(argv))
    except LoraScalingError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _run(arguments: argparse.Namespace) -> int:
    runs = [word for word in arguments.words if not _is_override(word)]
    overrides = parse_overrides([word for word in arguments.words if _is_override(word)])
    if not runs:
        raise UserError("`RUNS` was not given; give one or more folders of run records.")
    paths = find_records(runs)
    if not paths:
        raise UserError(f"`RUNS` was {' '.join(runs)}, which holds no run.json; give a folder of run records.")
    outcomes = [update(path, overrides) for path in paths]
    if all(outcome.run_id == "" for outcome in outcomes):
        raise RecordError(outcomes[0].note or "no record could be read")
    refused = [outcome.note for outcome in outcomes if outcome.refused]
    if overrides and refused and all(outcome.settings is None for outcome in outcomes):  # they fit no record
        raise UserError(refused[0])
    advice = _advice(outcomes, forced=arguments.forecast)
    if arguments.json:
        print(json.dumps(document(outcomes, advice), indent=1))
    else:
        print(render(outcomes, advice))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m lora_scaling.emissions",
        description="(Re)compute grams from stored energy timelines, adding a revision where they change.",
        epilog="Overrides: " + ", ".join(f"grid.{f.name}=…" for f in dataclasses.fields(GridSettings)),
    )
    parser.add_argument("words", nargs="*", metavar="RUNS|grid.FIELD=VALUE", help="folders of runs, overrides")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--forecast", action="store_true", help="say when the last run would emit least")
    return parser.parse_intermixed_args(argv)


def _is_override(word: str) -> bool:
    return re.match(r"\+{0,2}[A-Za-z_][\w.]*=", word) is not None and not Path(word).exists()


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`grid.zone=DK1` → {"zone": "DK1"}; UserError for what is not a field of `grid`."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(GridSettings)}
    overrides: dict[str, Any] = {}
    for word in words:
        name, _, text = word.lstrip("+").partition("=")
        field = name.removeprefix("grid.")
        if not name.startswith("grid.") or field not in kinds:
            near = difflib.get_close_matches(field, kinds, n=2) or list(kinds)
            known = ", ".join(f"grid.{each}" for each in near)
            raise UserError(f"`{name}` is not an override here; allowed: {known}; correct it.")
        overrides[field] = _value(name, text, kinds[field])
    if (zone := overrides.get("zone")) is not None and overrides.get("provider") != "file" and "file" not in overrides:
        find_place(zone)
    if (file := overrides.get("file")) is not None and not Path(file).is_file():
        raise UserError(f"`grid.file` was {file}, which is not a file; give a CSV with start,end,g_per_kwh.")
    return overrides


def _value(name: str, text: str, kind: str) -> Any:
    text = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
    if text == "null" and "None" in kind:
        return None
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return float(text) if kind.startswith("float") else text
    except (ValueError, KeyError):
        allowed = "true or false" if kind == "bool" else "a number"
        raise UserError(f"`{name}` was {text!r}; allowed is {allowed}; correct it.") from None


def update(path: Path, overrides: Mapping[str, Any]) -> Outcome:
    """Recomputes one record and writes it where the result is new; a record that cannot be is skipped."""
    run_id, emissions = "", None
    try:
        record = read_record(path)
        run_id, emissions = str(record["run_id"]), record.get("emissions")
        with locked(path.parent) as mine:
            if not mine:
                return Outcome(path=path, run_id=run_id, change="skipped", emissions=None, note="it is running")
            return _update(path, read_record(path), overrides)
    except UnwritableError:
        note = f"{path.parent.parent} cannot be written: copy the runs to where they can be, to compute grams anew"
    except RecordError as error:
        note = str(error)
    return Outcome(path=path, run_id=run_id, change="skipped", emissions=emissions, note=note)


def _update(path: Path, record: dict[str, Any], overrides: Mapping[str, Any]) -> Outcome:
    old: Mapping[str, Any] | None = record.get("emissions")
    run_id, energy = str(record["run_id"]), record.get("energy") or {}

    def outcome(change: str, emissions: Mapping[str, Any] | None, **more: Any) -> Outcome:
        started_at = str(record.get("started_at") or "")
        return Outcome(
            path=path, run_id=run_id, change=change, emissions=emissions, started_at=started_at,
            lacks=missing_part(record), **more,
        )  # fmt: skip

    if not energy.get("timeline"):
        return outcome("skipped", old, note="it has no energy timeline")
    try:
        settings = GridSettings.from_mapping(settings_for(record, overrides))
    except UserError as error:
        return outcome("skipped", old, note=str(error), refused=True)
    bins = read_timeline(path.parent / energy["timeline"])
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
    return outcome("new", new, note=new["reason"], settings=settings)


def settings_for(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The `grid` settings of a recomputation: the last revision's, or the run's own before there is one; overridden."""
    own = _mapping(_mapping(record.get("config")).get("grid"))
    base = _mapping(_mapping(record.get("emissions")).get("settings")) or own
    if any(name in overrides for name in CHOICE):
        anew = {*CHOICE, "base_url"} - (set() if base.get("file") else {"zone"})  # a file's zone is a mere label
        base = {name: value for name, value in base.items() if name not in anew}
        base |= {name: value for name, value in own.items() if name in anew}
    return {**base, **overrides}


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


def _advice(outcomes: Sequence[Outcome], *, forced: bool) -> ForecastAdvice | str | None:
    """Advice on repeating the last run, a sentence on why there is none, or None where nobody asked."""
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


if __name__ == "__main__":
    sys.exit(main())
