"""`python -m analysis plot RUNS`: every figure that the runs support, as SVG and PNG, each with a caption.

python -m analysis plot RUNS [--out DIR] [overrides of a target to extrapolate to]
"""

import argparse
from pathlib import Path

from lora_scaling.records import write_text

from .. import jsonout
from ..energy_model.extrapolate import predict_target
from ..energy_model.validated_fit import validated_fit
from ..export.figure_data import figure_data
from ..export.used_table import to_csv
from ..figures.plot import figures, save
from ..figures.style import DrawnFigure, SkippedFigure
from .arguments import add_runs, load, split_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis plot`."""
    add_runs(parser)
    parser.add_argument("--out", default="plots", metavar="DIR", help="folder for the figures")
    parser.add_argument("--run", default=None, metavar="RUN_ID", help="the run whose power is drawn")
    parser.epilog = "Overrides beside RUNS name a target to extrapolate to: model=llama-2-70b method=full"


def run(args: argparse.Namespace) -> int:
    """Draw and save everything; print what was written and what was skipped."""
    args.runs, overrides = split_overrides(args.runs)
    table = load(args)
    result = validated_fit(table)
    forecast = predict_target(table, result, overrides) if overrides else None
    folder = Path(args.out)
    found = figures(table, result, extrapolation=forecast, run_id=args.run)
    drawn = [item for item in found if isinstance(item, DrawnFigure)]
    skipped = [item for item in found if isinstance(item, SkippedFigure)]
    for item in drawn:
        save(item, folder)
        write_text(folder / f"{item.name}.csv", to_csv(figure_data(item.figure)), setting="out")
    index = {
        "schema_version": 1,
        "figures": [{"name": d.name, "title": d.title, "caption": d.caption} for d in drawn],
        "skipped": [{"name": s.name, "title": s.title, "reason": s.reason} for s in skipped],
    }
    write_text(folder / "captions.json", jsonout.dumps(index) + "\n", setting="out")
    if args.json:
        print(jsonout.dumps(index))
        return 0
    for item in drawn:
        print(f"{folder / item.name}.svg, .png, .csv: {item.title}")
    for item in skipped:
        print(f"skipped {item.name}: {item.reason}")
    print(f"Captions in {folder / 'captions.json'}.")
    return 0
