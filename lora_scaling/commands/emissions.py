"""`python -m lora_scaling.emissions RUNS [grid.zone=DK1 …]`: (re)compute grams from stored energy timelines.

Each changed result becomes a new revision of the run's record; the one before moves to `emissions_history`. What is
not said on the command line is as it was for the last revision: looking at grams changes nothing.
A grid that fails changes no exit status: the table says what stands in, and why. New grams
that were asked for and cannot be written make it 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_scaling.commands.cli import RESUMES, Parser, command, split_settings
from lora_scaling.errors import RecordError, UserError
from lora_scaling.grid import GridSettings
from lora_scaling.grid.recompute import advice_for, recompute
from lora_scaling.grid.report import document, render
from lora_scaling.grid.zones import find_place
from lora_scaling.records import find_records

OPTIONS = ("--json", "--forecast")
OWN = tuple(f"grid.{field.name}" for field in dataclasses.fields(GridSettings))


@command(when_interrupted=RESUMES)
def main(words: list[str]) -> int:
    """Recompute and print grams; return 1 where those asked for cannot be written, whatever a grid does."""
    arguments = parse(words)
    runs, settings = split_settings(arguments.words)
    overrides = parse_overrides(settings)
    if not runs:
        raise UserError("RUNS: missing; give one or more folders of run records")
    paths = find_records(runs)
    if not paths:
        raise UserError(f"RUNS: got {' '.join(runs)}, which holds no run.json; give a folder of run records")
    outcomes = [recompute(path, overrides) for path in paths]
    if all(outcome.run_id == "" for outcome in outcomes):
        raise RecordError(outcomes[0].note or "no record could be read")
    refused = [outcome.note for outcome in outcomes if outcome.refused]
    if overrides and refused and all(outcome.settings is None for outcome in outcomes):  # they fit no record
        raise UserError(refused[0])
    advice = advice_for(outcomes, forced=arguments.forecast)
    if arguments.json:
        print(json.dumps(document(outcomes, advice), indent=1))
    else:
        print(render(outcomes, advice))
    return int(bool(overrides) and any(outcome.unwritable for outcome in outcomes))  # an archive may be looked at


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; `words` are RUNS and overrides, still together."""
    parser = Parser(
        prog="lora-scaling emissions",
        description="(Re)compute grams from stored energy timelines, adding a revision where they change.",
        epilog="Overrides: " + ", ".join(f"{name}=…" for name in OWN),
    )
    parser.add_argument("words", nargs="*", metavar="RUNS|grid.FIELD=VALUE", help="folders of runs, overrides")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--forecast", action="store_true", help="say when the last run would emit least")
    return parser.parse_intermixed_args(words)


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
            raise UserError(f"{name}: not an override here; allowed: {known}")
        overrides[field] = _value(name, text, kinds[field])
    if (zone := overrides.get("zone")) is not None and overrides.get("provider") != "file" and "file" not in overrides:
        find_place(zone)
    if (file := overrides.get("file")) is not None and not Path(file).is_file():
        raise UserError(f"grid.file: got {file}, which is not a file; give a CSV with start,end,g_per_kwh")
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
        raise UserError(f"{name}: got {text!r}; give {allowed}") from None
