"""`lora-scaling estimate`: what would it cost?

    lora-scaling estimate [-m] [setting=value …] [--json]

The settings are those of a run (lora-scaling --help), and of an estimate alone:
    level=0.9             of the intervals
    fit=PATH              a fit.json from your own sweep (lora-scaling analyse fit RUNS)
    pilot=60s             run the real workload's own steps on this device for about that long, and scale
    stack=hf              the software: hf (this program), unsloth, torchtune, litgpt, llm-foundry, megatron, other
    measured='900 tokens/s'  a figure of an earlier run (also s/step, samples/s, MFU), of other settings after @:
                          measured='0.9 s/step @ batch_size=2'; or the folder of its record
    compare=method        or gpus, zones, models, stacks, or a list: compare=gpus:rtx-4090,2xh100-sxm
    at=2026-11-24T02:00   grams of the hours of a run that starts then (or at=now); asks the grid's provider
    plot=compare.svg      draw the comparison
    page=estimator.html   write a page with sliders that computes all this in a browser, opened at this run
    price.per_hour=2.5    money for an hour of all devices, or price.per_kwh=0.3
-m adds up a sweep: samples=32,64 lora.r=4,16. +sweeps=NAME is one without it.
"""

import argparse
import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lora_scaling.commands.cli import Parser, command, report, take_settings
from lora_scaling.config import RunConfig, compose
from lora_scaling.errors import UserError
from lora_scaling.estimate.compare import METHODS, compare, not_ordered_by_size
from lora_scaling.estimate.estimator import Price, estimate
from lora_scaling.estimate.fit_file import Fit, load_fit
from lora_scaling.estimate.hourly_emissions import advice, at_hours, parse_start
from lora_scaling.estimate.lengths import LengthsUnknown
from lora_scaling.estimate.measured import Measured, earlier_run, parse_measured
from lora_scaling.estimate.pilot import PilotMeasurement, refuse_several
from lora_scaling.estimate.priors import DEFAULT_STACK
from lora_scaling.estimate.result import LEVEL, SCHEMA_VERSION, Estimate

OPTIONS = ("--multirun", "--json")
OWN = (
    "fit",
    "pilot",
    "stack",
    "measured",
    "compare",
    "plot",
    "page",
    "level",
    "at",
    "price.per_hour",
    "price.per_kwh",
)
_NAMED_SWEEP = re.compile(r"\+{0,2}sweeps=")  # is run as a sweep without -m, too
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class EstimateRequest:
    """A parsed command line; `overrides` are those of a run."""

    overrides: tuple[str, ...]
    multirun: bool
    json: bool
    level: float
    fit: str | None
    pilot_s: float | None
    stack: str
    measured: Measured | None
    compare: str | None
    plot: str | None
    page: str | None
    at: datetime | None
    price: Price | None


@command()
def main(words: list[str]) -> int:
    """Estimate and print; a run that does not fit its device is bad input, and the last line says what would fit."""
    return _answer(parse(words))


def parse(arguments: Sequence[str]) -> EstimateRequest:
    """Take the estimate's own settings off the command line.

    Raises:
        UserError: one of them cannot be read.
    """
    parser = Parser(
        prog="lora-scaling estimate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="setting=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="add up a sweep")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    given = parser.parse_intermixed_args(list(arguments))
    own, rest = take_settings(given.overrides, OWN)
    level = _number("level", own["level"]) if "level" in own else LEVEL
    if not 0 < level < 1:
        raise UserError(f"level: got {level:g}; give a number between 0 and 1, such as {LEVEL:g}")
    prices = {key[6:]: _number(key, own[key]) for key in ("price.per_hour", "price.per_kwh") if key in own}
    sweep = "-m" if given.multirun else next((word for word in rest if _NAMED_SWEEP.match(word)), None)
    _refuse_conflicts(own, sweep)
    return EstimateRequest(
        overrides=tuple(rest),
        multirun=sweep is not None,
        json=given.json,
        level=level,
        fit=own.get("fit"),
        pilot_s=_seconds(own["pilot"]) if "pilot" in own else None,
        stack=own.get("stack", DEFAULT_STACK),
        measured=earlier_run(parse_measured(own["measured"]), rest) if "measured" in own else None,
        compare=own.get("compare"),
        plot=own.get("plot"),
        page=own.get("page"),
        at=parse_start(own["at"]) if "at" in own else None,
        price=Price(**prices) if prices else None,
    )


def _refuse_conflicts(own: Mapping[str, str], sweep: str | None) -> None:
    if sweep is not None and (single := own.keys() & {"compare", "pilot", "at", "page"}):
        raise UserError(f"{sweep}: adds up a sweep, and {min(single)}= is for one run; leave one of the two out")
    if "page" in own and (other := own.keys() & {"compare", "pilot", "at"}):
        raise UserError(f"page: computes from priors, a measured speed or a fit; leave {min(other)}= out")
    if "compare" in own and (other := own.keys() & {"pilot", "at"}):
        raise UserError(f"compare: compares estimates by priors or a fit; leave {min(other)}= or compare= out")
    if "plot" in own and "compare" not in own:
        raise UserError(f"plot: got {own['plot']!r}, of what? give compare=method, compare=gpus or compare=zones")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{name}: got {text!r}; give a number") from None
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}: got {text}; give a number of 0 or more")
    return value


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)?", text)
    if match is None or not float(match.group(1)) > 0:
        raise UserError(f"pilot: got {text!r}; give a duration above 0, such as 60s or 2m")
    return float(match.group(1)) * _SECONDS[match.group(2) or ""]


def _answer(request: EstimateRequest) -> int:
    fit = load_fit(request.fit) if request.fit is not None else None
    if request.multirun:
        return _sweep(request, fit)
    several = request.page is not None or (request.compare or "").startswith("method")
    config = compose(request.overrides, methods=METHODS if several else ())
    if request.page is not None:
        return _page(request, request.page, config, fit)
    if request.compare is not None:
        return _comparison(request, config, fit)
    answer = _single(request, config, fit)
    if request.at is not None:
        answer = at_hours(answer, config, request.at)
    answer = dataclasses.replace(answer, advice=advice(answer, config))
    if request.json:
        print(json.dumps(answer.to_dict(), indent=1))
    elif answer.memory.fits is not False:
        from lora_scaling.estimate.table import one

        print(one(answer))
    return _refusal([answer])


def _single(request: EstimateRequest, config: RunConfig, fit: Fit | None) -> Estimate:
    """The estimate of one run. A pilot's comes after one without it, which refuses what needs no measuring."""

    def answer(pilot: PilotMeasurement | None = None) -> Estimate:
        return estimate(
            config,
            level=request.level,
            fit=fit,
            pilot=pilot,
            price=request.price,
            stack=request.stack,
            measured=request.measured,
        )

    if request.pilot_s is None:
        return answer()
    refuse_several(config)
    with contextlib.suppress(LengthsUnknown):  # the pilot counts them
        first = answer()
        if first.memory.fits is False:
            return first
    from lora_scaling.training.device import show_one_gpu

    show_one_gpu(config.device)  # before the imports of training start the driver
    from lora_scaling.estimate.pilot_run import run_pilot

    return answer(run_pilot(config, request.pilot_s))


def _page(request: EstimateRequest, path: str, config: RunConfig, fit: Fit | None) -> int:
    from lora_scaling.estimate.page import page_data, write_page

    data = page_data(
        config,
        overrides=request.overrides,
        fit=fit,
        level=request.level,
        stack=request.stack,
        measured=request.measured,
        price=request.price,
    )
    written = write_page(path, data)
    print(_document(page=str(written)) if request.json else f"Estimator page: {written}")
    return 0


def _comparison(request: EstimateRequest, config: RunConfig, fit: Fit | None) -> int:
    assert request.compare is not None
    rows = compare(
        config,
        request.compare,
        level=request.level,
        fit=fit,
        price=request.price,
        stack=request.stack,
        measured=request.measured,
    )
    if request.plot is not None:
        from lora_scaling.estimate.compare_plot import write_plot

        write_plot(request.plot, rows, what=request.compare)
    sizes = {answer.work["params"] for _, answer in rows}
    note = not_ordered_by_size(rows) if len(sizes) > 1 else None
    if request.json:
        listed = [{"label": name} | e.to_dict() for name, e in rows]
        print(_document(compare=request.compare, rows=listed, **({"note": note} if note else {})))
        return 0
    from lora_scaling.estimate.table import many

    first, by = rows[0][1], request.compare.partition(":")[0]
    devices = len({(answer.hardware, answer.gpu_count) for _, answer in rows})
    title = first.title if devices == 1 else first.name
    if len(sizes) > 1:  # not that of the first model
        title = title.partition(" ")[2]
    print(f"{title}, compared by {request.compare}\n")
    print(many(rows, heading=by))
    if note is not None:
        print(note)
    return 0


def _sweep(request: EstimateRequest, fit: Fit | None) -> int:
    from lora_scaling.estimate.sweeps import estimates_of, expand, total_of

    if request.measured is not None and request.measured.config is None:
        raise UserError(
            f"measured: got {request.measured.text} for a sweep; of which run? give the folder of its record, or its "
            "settings after @"
        )
    answers = estimates_of(
        expand(request.overrides),
        level=request.level,
        fit=fit,
        price=request.price,
        stack=request.stack,
        measured=request.measured,
    )
    total = total_of(answers)
    if request.json:
        print(_document(runs=[a.to_dict() for a in answers], total=total.to_dict()))
    else:
        from lora_scaling.estimate.table import many

        print(many(_collapsed(answers), total))
    return _refusal(answers)


def _document(**parts: object) -> str:
    return json.dumps({"schema_version": SCHEMA_VERSION, **parts}, indent=1)


def _collapsed(answers: Sequence[Estimate]) -> list[tuple[str, Estimate]]:
    """Replicates as one line."""
    seen: dict[tuple[object, ...], tuple[str, Estimate, int]] = {}
    for answer in answers:
        key = (answer.name, *answer.work.values(), answer.memory.peak_gb.estimate)
        name, first, count = seen.get(key, (answer.name, answer, 0))
        seen[key] = (name, first, count + 1)
    return [(f"{name}{f' (× {count})' if count > 1 else ''}", first) for name, first, count in seen.values()]


def _refusal(answers: Sequence[Estimate]) -> int:
    """Say of the first run that does not fit what would make it fit."""
    for answer in answers:
        if answer.memory.fits is False:
            return report(UserError(answer.memory.remedy))
    return 0
