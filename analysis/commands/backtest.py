"""`python -m analysis backtest RUNS`: fit on the cheaper runs, predict the most expensive ones."""

import argparse

from .. import jsonout
from ..energy_model.backtest import backtest, summary
from .arguments import add_runs, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis backtest`."""
    add_runs(parser)


def run(args: argparse.Namespace) -> int:
    """Print the backtest as JSON or as a table."""
    table = load(args)
    result = backtest(table.frame)
    if args.json:
        excluded = [{"run_id": item.run_id, "reason": item.reason} for item in table.excluded]
        print(jsonout.dumps({"schema_version": 1, **result.to_dict(), "runs_excluded": excluded}))
        return 0
    print("\n".join(summary(result)))
    for split in result.made:
        print(f"\n{split.name}: every predicted run")
        print(f"  {'run':<48} {'observed kWh':>13} {'predicted kWh':>14} {'90 % interval':>27} {'error':>8}")
        for row in split.table.head(40).to_dict("records"):
            interval = f"{row['low_kwh']:.4g} to {row['high_kwh']:.4g}"
            print(
                f"  {str(row['run_id'])[:48]:<48} {row['observed_kwh']:>13.4g} {row['predicted_kwh']:>14.4g} "
                f"{interval:>27} {100 * row['error']:>+7.1f} %"
            )
        if len(split.table) > 40:
            print(f"  … and {len(split.table) - 40} more (--json has all)")
    return 0
