"""`python -m analysis extrapolate RUNS OVERRIDES`: predict a run that was not made, with an interval.

python -m analysis extrapolate RUNS model=llama-2-70b method=full samples=21300 [--json]
"""

import argparse

from lora_scaling.text import ENERGY, MASS, MEMORY, TIME, number

from .. import jsonout
from ..energy_model.backtest import summary
from ..energy_model.extrapolate import Extrapolation, extrapolate
from .arguments import add_runs, load, split_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis extrapolate`."""
    add_runs(parser)
    parser.epilog = "Overrides of the target go beside RUNS: model=llama-2-70b method=full samples=21300"


def run(args: argparse.Namespace) -> int:
    """Print the prediction as JSON or in words."""
    args.runs, overrides = split_overrides(args.runs)
    result = extrapolate(load(args), overrides)
    print(jsonout.dumps(result.document) if args.json else "\n".join(describe(result)))
    return 0


def describe(result: Extrapolation) -> list[str]:
    """The prediction in a few sentences."""
    d = result.document
    e, t, grams, memory = d["energy_kwh"], d["time_s"], d["emissions_g"], d["peak_memory_gb"]
    lines = [d["assumptions"][0], ""]
    kind, value = result.validated.fitted.kind, d["value"]
    shown = (("Energy", ENERGY, e), (kind.name[:1].upper() + kind.name[1:], kind.quantity, value), ("Time", TIME, t))
    for name, quantity, interval in shown:
        if interval:
            value, ends = quantity.interval(**{key: interval[key] for key in ("estimate", "low", "high")})
            lines.append(f"{name:<9}  {value} ({'90 % interval ' * (len(lines) == 2)}{ends})")
    if grams:
        lines.append(
            f"Emissions  {MASS.between(grams['estimate'], grams['low'], grams['high'])} at "
            f"{grams['intensity_g_per_kwh']:.4g} g/kWh: {grams['definition']}"
        )
    fits = {True: "fits", False: "does NOT fit", None: "limit unknown"}[memory["fits"]]
    peak = (
        "unknown, as the model is"
        if memory["estimate"] is None
        else f"{MEMORY.show(memory['estimate'])} at the peak ({fits})"
    )
    lines.append(f"Memory     {peak}")
    for item in d["extrapolates"]:
        lines.append(f"Outside    {item['variable'].replace('_', ' ')}: {number(item['factor'])}× beyond the data")
    lines += [f"Scenario   {item['sentence']}" for item in d["scenarios"]]
    lines.append(f"Backtest   {d['validation']['label']}" + "".join(f"; {r}" for r in d["validation"]["reasons"]))
    lines += [f"           {line}" for line in summary(result.validated.backtest)]
    return [*lines, "", *(f"- {text}" for text in d["assumptions"][1:])]
