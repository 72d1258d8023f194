"""`plot`: every figure that the runs support, as SVG and PNG, each with a caption.

    python -m analysis plot RUNS [--out DIR] [overrides of a target to extrapolate to]

`figures` returns them; saving is here alone. A figure that cannot be drawn is skipped with its reason.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl

from lora_scaling.errors import UserError
from lora_scaling.records import write_text

from .. import jsonout
from ..claims.verdicts import Options
from ..commands.arguments import add_runs, load, split_overrides
from ..energy_model.extrapolate import Extrapolation, predict_target
from ..energy_model.fit import ValidatedFit, validated_fit
from ..tables.table import RunTable
from .compare import interchangeability, lora_and_full
from .forecast import backtest_figure, extrapolation_figure
from .power import power_figure
from .residuals import residuals
from .scaling import scaling_figures
from .style import Drawn, Skipped
from .view import View

PNG_DPI = 150


def figures(
    table: RunTable,
    result: ValidatedFit | None = None,
    *,
    extrapolation: Extrapolation | None = None,
    run_id: str | None = None,
    margin: float = Options.margin,
) -> list[Drawn | Skipped]:
    """All figures of a table in reading order; `run_id` chooses the run whose power is drawn, `margin` what is shaded.

    Raises UserError where fewer than three runs trained with a known energy.
    """
    view = View(table=table, result=result if result is not None else validated_fit(table), margin=margin)
    forecast: Drawn | Skipped = Skipped(
        name="extrapolation",
        title="Extrapolation to a target",
        reason="no target was given; add its overrides, e.g. model=llama-2-70b method=full samples=21300",
    )
    if extrapolation is not None:
        forecast = extrapolation_figure(view, extrapolation)
    return [
        *scaling_figures(view),
        interchangeability(view),
        lora_and_full(view),
        residuals(view),
        backtest_figure(view),
        forecast,
        power_figure(view, run_id),
    ]


def save(drawn: Drawn, folder: Path) -> list[Path]:
    """Write NAME.svg and NAME.png.

    Raises UserError where the folder cannot be written.
    """
    paths = [folder / f"{drawn.name}.{suffix}" for suffix in ("svg", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The same runs give the same bytes: no date, and ids from a fixed salt. Names stay text, not mathematics.
        with mpl.rc_context({"svg.hashsalt": "lora-scaling", "text.parse_math": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in another script
            drawn.figure.savefig(paths[0], metadata={"Date": None, "Title": drawn.title})
            drawn.figure.savefig(paths[1], dpi=PNG_DPI, metadata={"Title": drawn.title})
    except OSError as error:
        raise UserError(
            f"`out` was {str(folder)!r}, which cannot be written ({error.strerror}); give another folder."
        ) from None
    return paths


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
    drawn = [item for item in found if isinstance(item, Drawn)]
    skipped = [item for item in found if isinstance(item, Skipped)]
    for item in drawn:
        save(item, folder)
    index = {
        "schema_version": 1,
        "figures": [{"name": d.name, "title": d.title, "caption": d.caption} for d in drawn],
        "skipped": [{"name": s.name, "title": s.title, "reason": s.reason} for s in skipped],
    }
    write_text(folder / "captions.json", jsonout.dumps(index) + "\n")
    if args.json:
        print(jsonout.dumps(index))
        return 0
    for item in drawn:
        print(f"{folder / item.name}.svg, .png: {item.title}")
    for item in skipped:
        print(f"skipped {item.name}: {item.reason}")
    print(f"Captions in {folder / 'captions.json'}.")
    return 0
