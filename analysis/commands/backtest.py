"""`python -m analysis backtest RUNS`: fit on the cheaper runs, predict the most expensive ones."""

import argparse

from lora_scaling import terminal

from .. import jsonout
from ..energy_model.backtest import BacktestSplit, backtest, summary
from .arguments import add_runs, load

MOST_SHOWN = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis backtest`."""
    add_runs(parser)


def run(args: argparse.Namespace) -> int:
    """Print the backtest as JSON or as a table."""
    table = load(args)
    result = backtest(table.frame, table.response)
    if args.json:
        excluded = [{"run_id": item.run_id, "reason": item.reason} for item in table.excluded]
        print(jsonout.dumps({"schema_version": 1, **result.to_dict(), "runs_excluded": excluded}))
        return 0
    print("\n".join(summary(result)))
    for split in result.made:
        print(f"\n{split.name}: every predicted run")
        print(_table(split))
        if len(split.table) > MOST_SHOWN:
            print(f"  … and {len(split.table) - MOST_SHOWN} more (--json has all)")
    return 0


def _table(split: BacktestSplit) -> str:
    """Format the predicted runs of a split, all values in one unit."""
    unit = split.kind.quantity.column_unit(split.column("observed"))
    observed, predicted, low, high = (
        f"{name}_{split.kind.suffix}" for name in ("observed", "predicted", "low", "high")
    )
    header = ("run", f"observed {unit.name}", f"predicted {unit.name}", "90 % interval", "error")
    return terminal.table(
        [
            header,
            *(
                (
                    str(row["run_id"])[:48],
                    unit.number(row[observed]),
                    unit.number(row[predicted]),
                    f"{unit.number(row[low])} to {unit.number(row[high])}",
                    f"{100 * row['error']:+.1f} %",
                )
                for row in split.table.head(MOST_SHOWN).to_dict("records")
            ),
        ]
    )
