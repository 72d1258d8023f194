"""What the claims on samples and epochs share: one design, its analyses, and a decision on an exponent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lora_scaling.text import counted

from ..regression.curve_analysis import (
    LEAST_STEPS,
    Analysis,
    CurveDesign,
    LackOfFit,
    analyse,
    build_design,
    by_session,
    gate,
    lack_of_fit,
    relative_length,
)
from ..regression.power_law import Profile, fit_curve
from ..tables.checks import doubt_about
from ..tables.response import Response
from .verdicts import Decision, Options
from .vetoes import FarthestRun

MISFIT_P = 0.01
COLUMN = {"samples": "samples", "epochs": "epochs_seen"}


@dataclass(frozen=True)
class ClaimContext:
    """What every claim is decided from: the response, and designs and analyses, each made when first asked for."""

    response: Response
    options: Options
    suspects: tuple[str, ...]
    idle_alike: bool = False  # whether runs without training are known to cost all that does not depend on its length

    @cached_property
    def _parts(self) -> dict[str, dict[str, "ClaimContext"]]:
        return {}

    @cached_property
    def trusted(self) -> pd.DataFrame:
        """The runs without those whose unit is in doubt: what further runs are asked for by."""
        frame = self.response.frame
        return frame[~frame["run_id"].isin(self.suspects)].reset_index(drop=True)

    def parts(self, column: str) -> dict[str, "ClaimContext"]:
        """Return a context for the runs of each value of a column; empty unless the runs have several."""
        if column not in self._parts:
            frame = self.response.frame
            names = frame[column].map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
            names = names.replace("", "the defaults").where(frame[column].notna())
            self._parts[column] = {
                str(name): replace(self, response=replace(self.response, frame=rows.reset_index(drop=True)))
                for name, rows in frame.groupby(names, sort=False)
                if names.nunique() > 1
            }
        return self._parts[column]

    @cached_property
    def design(self) -> CurveDesign:
        return by_session(build_design(self.response.frame))

    @cached_property
    def total(self) -> Analysis:
        return analyse(self.design, "y", per_token=True)

    @cached_property
    def trained(self) -> Analysis:
        """The curve of the runs that trained, alone."""
        frame = self.response.frame
        trained = frame[frame["samples_seen"] > 0]
        if len(trained) == len(frame):
            return self.total
        return analyse(by_session(build_design(trained.reset_index(drop=True))), "y", per_token=True)

    @cached_property
    def as_run(self) -> Analysis:
        """The same by the samples themselves, however long they were."""
        return self.total if relative_length(self.design.frame) is None else analyse(self.design, "y")

    @cached_property
    def measured(self) -> Analysis:
        return analyse(self.design, "y_measured", per_token=True)

    @cached_property
    def measured_as_run(self) -> Analysis:
        return analyse(self.design, "y_measured")

    def misfit(self, analysis: Analysis, factor: str, *, wide: bool = False) -> LackOfFit | None:
        """Return the lack of fit of the curve (`wide`: with costs apart) if it could decide by itself; else None.

        That is at p < 0.01, with a level farther off than an exponent on the margin's edge puts the ends.
        """
        found = lack_of_fit(analysis.design, analysis.wide if wide else analysis.fit)
        allowed = allowed_deviation(self, factor)
        return found if found is not None and found.p < MISFIT_P and found.deviation > allowed else None

    def straight(self, factor: str) -> LackOfFit | None:
        """Test the lack of fit of the straight line, whatever comes once per sample or per epoch: the exponent is 1."""
        return lack_of_fit(self.total.design, self.total.wide_profile(factor).held_at(1.0), spent=1)

    @cached_property
    def blocks(self) -> dict[str, str | None]:
        """For each factor, why no curve can be decided on (None where it can)."""
        return {factor: _curve_block(self, factor) for factor in COLUMN}


def warmed_up_alike(frame: pd.DataFrame) -> bool:
    """Return whether all runs, also those of no steps, made passes that were discarded: they share what is fixed."""
    return bool((frame["energy_warmup_kwh"] > 0).all())


def outlier_of(analysis: Analysis) -> FarthestRun | None:
    """Return the run far off the curve, which `analysis.without` leaves out."""
    if analysis.outlier is None or analysis.outlier_mads is None:
        return None
    run_id = str(analysis.design.frame["run_id"].iloc[analysis.outlier])
    return FarthestRun(row=analysis.outlier, run_id=run_id, mads=analysis.outlier_mads)


def without_outlier(analysis: Analysis) -> Analysis:
    """Return the analysis without its outlier."""
    return analysis.without or analysis


def decide_profile(profile: Profile, low: float, high: float, options: Options) -> Decision:
    """Decide whether an exponent lies in [low, high], by its profile likelihood."""
    ci = profile.interval(options.ci_level)
    if ci[0] >= low and ci[1] <= high:
        p = max(profile.p_beyond(low), profile.p_beyond(high))
        return Decision(verdict="supported", estimate=profile.estimate, ci=ci, p_value=p)
    if ci[1] < low or ci[0] > high:
        p = profile.p_beyond(low if ci[1] < low else high)
        return Decision(verdict="refuted", estimate=profile.estimate, ci=ci, p_value=p)
    return Decision(verdict="undecided", estimate=profile.estimate, ci=ci, p_value=None)


def _curve_block(context: ClaimContext, factor: str) -> str | None:
    """Say why no curve is fitted: suspicious rows, too few runs, or a design that cannot decide."""
    if doubt := doubt_about(context.design.frame, context.suspects):
        return doubt
    frame = context.response.frame
    if len(frame) < 2:
        return "no usable run" if frame.empty else "there is only one usable run"
    if factor not in context.design.factors:
        levels = frame[frame["samples_seen"] > 0][factor].nunique()
        if levels < 2:
            return f"{factor} never varied: all runs have the same"
        return f"too few different numbers of {factor} were run with everything else equal" + unresolved_words(
            context.design
        )
    blocked = gate(context.design, factor)
    if blocked:
        return blocked + unresolved_words(context.design)
    parameters = len(context.design.factors) + int(context.design.frame["cell"].max()) + 2
    if len(context.design.frame) < parameters + 3:
        return f"{len(context.design.frame)} runs are too few for a curve of {parameters} parameters"
    return None


def unresolved_words(design: CurveDesign) -> str:
    """Say how many runs the meter hardly sees; empty if none."""
    if not design.unresolved:
        return ""
    return f" (not counting {counted(design.unresolved, 'run')} of less than {LEAST_STEPS} steps of the meter)"


def length_slope(context: ClaimContext, factor: str) -> float | None:
    """Return the exponent of the tokens per sample, padding included, in the factor; None if unknown.

    Where it exceeds half the margin, more samples also means longer ones: their effects look alike.
    """
    trained = context.design.trained
    length = relative_length(trained)
    if length is None:
        return None
    x = np.log(trained[COLUMN[factor]].to_numpy(dtype=float))
    dx = x - pd.Series(x).groupby(trained["cell"].to_numpy()).transform("mean").to_numpy()
    return float(dx @ length / (dx @ dx))


def length_words(slope: float, factor: str) -> str:
    """Say how the length of the samples changed with the factor."""
    change = 100 * math.expm1(slope * math.log(2))
    way = "more" if slope > 0 else "fewer"
    return (
        f"runs with more {factor} also had {way} tokens a sample, padding included ({change:+.1f} % for each doubling)"
    )


def misfit_words(analysis: Analysis, lack: LackOfFit) -> str:
    """Say that no curve fits, where the runs lie farthest off it, and what that looks like."""
    place = f"runs at {level_words(lack.level)}" if lack.level["samples_seen"] > 0 else "runs without training"
    return (
        f"no smooth curve fits: {place} lie {100 * lack.deviation:.1f} % off it, more than repeats scatter "
        f"(p = {lack.p:.2g}), as if {_misfit_looks(analysis, lack)}"
    )


def _misfit_looks(analysis: Analysis, lack: LackOfFit) -> str:
    """Say which level the misfit comes from: the one without which the curve fits best."""
    frame, data = analysis.design.frame, analysis.fit.data
    work = frame["samples_seen"].to_numpy(dtype=float)
    largest, smallest = work.max(), work[work > 0].min()

    def rss_without(amount: float) -> float:
        own = (work == amount).astype(float)[:, None]
        return fit_curve(replace(data, nuisance=np.concatenate([data.nuisance, own], axis=1))).rss

    source = min({largest, smallest, lack.level["samples_seen"]}, key=rss_without)
    words = level_words(frame[work == source].iloc[0])
    if source <= 0:
        return "training had a fixed cost that runs without it are spared, or the reverse"
    if source == largest:
        return f"another regime of the device began at {words}"
    if source == smallest:
        return f"the smallest runs, {words}, had a cost that the others are spared, or the reverse"
    return f"{words} were run under other conditions, or a cost came in steps"


def level_words(level: Mapping[str, float] | pd.Series) -> str:
    """Format a level as 64 samples × 2 epochs."""
    return f"{counted(level['samples'], 'sample')} × {counted(level['epochs'], 'epoch')}"


def allowed_deviation(context: ClaimContext, factor: str) -> float:
    """Return how far (relative) a level may lie off: what an exponent on the margin's edge does at the ends."""
    return context.options.margin * math.log(context.design.range(COLUMN[factor])) / 2


def deviation_within(context: ClaimContext, factor: str) -> float:
    """Return how far (relative) an exponent within the margin can put a level of this design off its best line.

    `allowed_deviation` is for levels run equally often. Where most runs are at the cheap end, the line is pinned
    there, and an exponent just within the margin puts the far end farther off.
    """
    profile = context.total.wide_profile(factor)
    allowed = math.log1p(allowed_deviation(context, factor))
    for edge in (1 - context.options.margin, 1 + context.options.margin):
        exact = replace(profile.fit.data, log_y=profile.fit.data.log_y - profile.held_at(edge).resid)
        line = Profile(fit=fit_curve(exact), index=profile.index).held_at(1.0)
        allowed = max(allowed, float(np.abs(line.resid).max()))
    return math.expm1(allowed)
