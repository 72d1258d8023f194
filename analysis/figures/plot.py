"""Every figure that the runs support, as SVG and PNG, each with a caption.

`figures` returns them; saving is here alone. A figure that cannot be drawn is skipped with its reason.
"""

import io
import warnings
from pathlib import Path

import matplotlib as mpl

from lora_scaling.records import write_text

from ..claims.verdicts import Options
from ..energy_model.extrapolate import Extrapolation
from ..energy_model.validated_fit import ValidatedFit, validated_fit
from ..tables.table import RunTable
from .compare import interchangeability, lora_and_full
from .forecast import backtest_figure, extrapolation_figure
from .gains import pareto_figures
from .power import power_figure
from .residuals import residuals
from .scaling import scaling_figures
from .style import DrawnFigure, SkippedFigure
from .view import View

PNG_DPI = 150


def figures(
    table: RunTable,
    result: ValidatedFit | None = None,
    *,
    extrapolation: Extrapolation | None = None,
    run_id: str | None = None,
    margin: float = Options.margin,
) -> list[DrawnFigure | SkippedFigure]:
    """Draw all figures of a table in reading order; a figure that the runs cannot support is skipped with the reason.

        for item in figures(load_runs("runs.csv")):
            print(item.name, item.title)

    `result` is their fit, if there is one already; `run_id` chooses the run whose power is drawn, `margin` what is
    shaded as equal.

    Raises:
        UserError: fewer than three runs trained with a known energy.
    """
    view = View(table=table, result=result if result is not None else validated_fit(table), margin=margin)
    forecast: DrawnFigure | SkippedFigure = SkippedFigure(
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
        *pareto_figures(view),
        residuals(view),
        backtest_figure(view),
        forecast,
        power_figure(view, run_id),
    ]


def save(drawn: DrawnFigure, folder: Path) -> list[Path]:
    """Write NAME.svg and NAME.png and return their paths.

    Raises:
        UnwritableError: the folder cannot be written.
    """
    paths = [folder / f"{drawn.name}.{suffix}" for suffix in ("svg", "png")]
    svg, png = io.BytesIO(), io.BytesIO()
    # The same runs give the same bytes: no date, and ids from a fixed salt. Names stay text, not mathematics.
    with mpl.rc_context({"svg.hashsalt": "lora-scaling", "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in another script
        drawn.figure.savefig(svg, format="svg", metadata={"Date": None, "Title": drawn.title})
        drawn.figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Title": drawn.title})
    for path, content in zip(paths, (svg, png), strict=True):
        write_text(path, content.getvalue(), setting="out")
    return paths
