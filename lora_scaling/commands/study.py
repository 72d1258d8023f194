"""`python -m lora_scaling.study`: a study that stops as soon as its claim is decided. See `--help`."""

import os
import sys
from collections.abc import Mapping, Sequence

from lora_scaling.analysis_package import use_own_analysis
from lora_scaling.claim_defaults import ADAPTIVE, LEVEL, MARGIN, MIN_LEVELS, MIN_RANGE
from lora_scaling.commands.cli import RESUMES, command, take_settings
from lora_scaling.commands.run import task
from lora_scaling.errors import UserError
from lora_scaling.records.provenance import command_for_launchers
from lora_scaling.runs.study import StudyRequest, conduct

OWN = ("claim", "max_kwh", "max_minutes", "margin", "level", "samples", "epochs", "batch")
_SET_BY_STUDY = ("hydra/sweeper", "replicate", "replicates", "order", "max_steps", "max_hours", "on_existing")
USAGE = f"""\
An adaptive study: run, analyse, and stop as soon as the claim is supported or refuted, or the budget is spent.

  lora-scaling study claim=linear_in_samples max_kwh=0.05 max_minutes=30 model=smollm2-135m
  lora-scaling study claim=linear_in_epochs max_minutes=10 epochs=1,2,4,8 samples=128

claim         linear_in_samples | linear_in_epochs
max_kwh       what all runs of the study may take together, those of earlier starts included
max_minutes   how long they may take together (at least one of the two budgets)
margin        what counts as equal (default {MARGIN}: an exponent of {1 - MARGIN} to {1 + MARGIN} is linear)
level         1 − the error rate of the verdict, over all looks together (default {LEVEL})
samples       levels, e.g. samples=64,128,256,512,1024: at least four over a factor of eight
epochs        … and the number held; the other way round for linear_in_epochs
batch         with a launcher (hydra/launcher=workers, slurm …): how many runs it gets at once (default: all until
              the next look)
Everything else is a setting of a run: see lora-scaling --help.

Interrupt it whenever you like; the same command continues, also with another budget."""


@command(when_interrupted=RESUMES)
def main(words: list[str]) -> int:
    """Carry out the study that the words ask for; it may end without a decision."""
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    request = parse(words)
    use_own_analysis()
    from analysis.adaptive import next_step  # tables and statistics: not before a request is understood

    os.environ["HYDRA_FULL_ERROR"] = "1"  # or a launcher's process prints an error of Hydra's own shape
    with command_for_launchers(sys.argv):
        conduct(request, next_step, task)
    return 0


def parse(arguments: Sequence[str]) -> StudyRequest:
    """A request from the command line.

    Raises:
        UserError: a setting is missing, unknown or impossible; the text says which and what is allowed.
    """
    given, overrides = take_settings(arguments, OWN)
    if taken := take_settings(overrides, _SET_BY_STUDY)[0]:
        name, value = next(iter(taken.items()))
        raise UserError(f"{name}: got {value!r}; an adaptive study sets it itself: leave it out")
    claim = given.get("claim", "")
    if claim not in ADAPTIVE:
        raise UserError(
            f"claim: got {claim!r}{', which is not adaptive yet' if claim else ''}; "
            f"choose one of {', '.join(ADAPTIVE)}"
            + (", or run a sweep and `lora-scaling analyse design RUNS`" if claim else "")
        )
    factor, default_levels, held, default_held = ADAPTIVE[claim]
    request = StudyRequest(
        claim=claim,
        margin=_number(given, "margin", str(MARGIN), 0.5),
        level=_number(given, "level", str(LEVEL), 1.0),
        max_kwh=_number(given, "max_kwh", "inf", None) if "max_kwh" in given else None,
        max_minutes=_number(given, "max_minutes", "inf", None) if "max_minutes" in given else None,
        levels=_levels(factor, given.get(factor, default_levels)),
        at=_whole(held, given.get(held, default_held)),
        overrides=tuple(word for word in overrides if not _is_of_launcher(word)),
        launcher=tuple(filter(_is_of_launcher, overrides)),
        batch=_whole("batch", given["batch"], "4") if "batch" in given else None,
    )
    if request.max_kwh is None and request.max_minutes is None:
        raise UserError("max_kwh, max_minutes: missing; give at least one of them, such as max_minutes=10")
    if request.level <= 0.5:
        raise UserError(f"level: got {request.level:g}; give a number between 0.5 and 1, such as level=0.95")
    return request


def _number(given: Mapping[str, str], key: str, default: str, below: float | None) -> float:
    text = given.get(key, default)
    allowed = "a number above 0" if below is None else f"a number between 0 and {below:g}"
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{key}: got {text!r}; give {allowed}") from None
    if not 0 < value < (float("inf") if below is None else below):
        raise UserError(f"{key}: got {text}; give {allowed}")
    return value


def _is_of_launcher(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return key == "hydra/launcher" or key.startswith("hydra.launcher.")


def _whole(key: str, text: str, such_as: str = "64") -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{key}: got {text!r}; give a whole number from 1 up, such as {key}={such_as}")
    return int(text)


def _levels(key: str, text: str) -> tuple[int, ...]:
    levels = tuple(sorted({_whole(key, part.strip()) for part in text.split(",")}))
    if len(levels) < MIN_LEVELS or levels[-1] < MIN_RANGE * levels[0]:
        raise UserError(
            f"{key}: got {text}; a curve shows over at least {MIN_LEVELS} levels and a factor of {MIN_RANGE}, "
            f"e.g. {key}={','.join(str(levels[0] * 2**i) for i in range(5))}"
        )
    return levels
