"""Define the nested family of energy models.

On the log scale, log(E / tokens) = α + size part + length part + effects of method, hardware, precision:

    size     γ = 1 (energy follows the FLOPs); γ free; utilisation that saturates, φ = 1 + (N_h/N)^k with
             k = ½, 1, 2 (a free k is hardly identified together with N_h; three fixed ones are averaged);
             a roofline: energy per token is flat (launches, memory traffic), then follows the FLOPs
    length   proportional to tokens; affine (a fixed cost per run); a power of the tokens; costs that come once for each
             sample (tokenising) or once for each epoch (an evaluation, a checkpoint), where the runs separate them
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lora_scaling.estimate.terms import Target, contributions, parse_term

from ..arrays import Array
from ..tables.run_quantities import Work

LEAST_COST_LEVELS, LEAST_COMBINATIONS, MOST_CORRELATION = 3, 8, 0.9  # of samples and epochs, to separate their costs
LEAST_OWN_SPREAD = 0.05  # standard deviation in logs that belongs to a factor alone
ROOFLINES = {"roofline": 2, "sharp roofline": 4}  # with the additive one, which is `saturating`
POWERS = {"saturating-slowly": 0.5, "saturating": 1.0, "saturating-suddenly": 2.0}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One member of the family: `terms` maps parameter names to terms; `per` is what the response is divided by."""

    name: str
    per: str
    terms: Mapping[str, str]

    def formula(self) -> str:
        kinds = {name: parse_term(term) for name, term in self.terms.items()}
        parts = [_readable(name, self.terms[name]) for name, term in kinds.items() if term.kind != "cost"]
        costs = [f"e^{name}/{term.name}" for name, term in kinds.items() if term.kind == "cost"]
        parts += [f"log({' + '.join(['1', *costs])})"] if costs else []
        return f"log(response / {self.per}) = " + " + ".join(parts)


def family(work: Work, covariates: Sequence[str] = ()) -> list[Form]:
    """Return every form that these runs can identify, simplest first."""
    effects, _ = label_effects(work)
    extra = {f"{name}_exponent": f"log({name})" for name in covariates}
    forms = []
    for size_name, per, size_terms in _size_parts(work):
        separate = [] if "log_half_size" in size_terms else _separate_costs(work)
        for length_name, length_terms in (*_length_parts(work), *separate):
            terms = {"alpha": "1", **size_terms, **length_terms, **effects, **extra}
            name = size_name + (f", {length_name}" if length_name else "")
            forms.append(Form(name=name, per=per, terms=terms))
    return forms


def _size_parts(work: Work) -> list[tuple[str, str, dict[str, str]]]:
    if work.size is None:
        return [("proportional", work.per, {})]
    levels = work.levels(work.size) if identified(work, work.size) else 1
    power = ("power", work.per, {"gamma": f"log({work.size})"})
    if work.size != "flops_per_token":
        return [("proportional", f"params_{work.per}", {})] if levels < 2 else [power]
    parts = [("proportional", "flops", {})]
    if levels >= 2:
        parts.append(power)
    if levels >= 3:
        parts += [
            (
                name,
                "flops",
                {"log_half_size": f"saturation({work.size}, {k:g})" if k != 1 else f"saturation({work.size})"},
            )
            for name, k in POWERS.items()
        ]
        parts += [(name, "flops", {"log_half_size": f"roofline({work.size}, {p})"}) for name, p in ROOFLINES.items()]
    return parts


def _length_parts(work: Work) -> list[tuple[str, dict[str, str]]]:
    parts: list[tuple[str, dict[str, str]]] = [("", {})]
    levels = work.levels(work.per) if identified(work, work.per) else 1
    if levels >= 2:
        parts.append((f"power of {work.per}", {f"{work.per}_exponent": f"log({work.per})"}))
    if levels >= 3:
        parts.append(("fixed cost", {"log_fixed_cost": f"saturation({work.per})"}))
    return parts


def _separate_costs(work: Work) -> list[tuple[str, dict[str, str]]]:
    """Return E = F + c·samples + d·epochs + a·samples·epochs, as the claims know it; empty if runs do not separate it.

    As a ratio, E = a·samples·epochs·(1 + C/epochs + D/samples + F'/tokens).
    """
    samples, epochs = work.values["samples"], work.values["epochs"]
    if not (np.isfinite(samples) & np.isfinite(epochs) & (samples > 0) & (epochs > 0)).all():
        return []
    if min(work.levels("samples"), work.levels("epochs")) < LEAST_COST_LEVELS:
        return []
    logs = np.round(np.column_stack([np.log(samples), np.log(epochs)]), 2)
    if len(np.unique(logs, axis=0)) < LEAST_COMBINATIONS or abs(np.corrcoef(*logs.T).item(1)) > MOST_CORRELATION:
        return []
    per_sample, per_epoch = {"log_cost_per_sample": "cost(epochs)"}, {"log_cost_per_epoch": "cost(samples)"}
    once = {
        "cost per sample": per_sample,
        "cost per epoch": per_epoch,
        "cost per sample and per epoch": per_sample | per_epoch,
    }
    fixed = {"log_fixed_cost": f"cost({work.per})"}
    return [*once.items(), *((f"{name}, fixed cost", terms | fixed) for name, terms in once.items())]


def label_effects(work: Work) -> tuple[dict[str, str], list[str]]:
    """Return terms for the labels, relative to the most common value, and labels that are aliased by others."""
    terms: dict[str, str] = {}
    aliased: list[str] = []
    columns = [np.ones(len(work))]
    if work.levels("gpu_count") > 1:
        terms["gpu_count_exponent"] = "log(gpu_count)"
        columns.append(np.log(work.values["gpu_count"]))
    for label in work.labels:
        names, counts = np.unique(work.labels[label].astype(str), return_counts=True)
        for name in names[np.argsort(-counts, kind="stable")][1:]:
            column = (work.labels[label] == name).astype(float)
            if np.linalg.matrix_rank(np.column_stack([*columns, column])) > len(columns):
                columns.append(column)
                terms[f"{label}[{name}]"] = f"{label}={name}"
            elif label not in aliased:
                aliased.append(label)
    return terms, aliased


def identifies(work: Work, labels: Mapping[str, str], gpu_count: float) -> bool:
    """Return whether the runs determine the joint effect of these labels and number of devices.

    They do if the combination is a linear combination of runs. Some run must have each value; only the given labels are
    considered.
    """
    rows = np.unique(
        np.column_stack(
            [
                np.log(work.values["gpu_count"]),
                *(
                    (work.labels[label] == name).astype(float)
                    for label in labels
                    for name in np.unique(work.labels[label].astype(str))
                ),
                np.ones(len(work)),
            ]
        ),
        axis=0,
    )
    target = [math.log(gpu_count)]
    for label, given in labels.items():
        target += [float(name == given) for name in np.unique(work.labels[label].astype(str))]
    rank = np.linalg.matrix_rank
    return bool(rank(np.vstack([rows, [*target, 1.0]])) == rank(rows))


def identified(work: Work, name: str) -> bool:
    """Return whether a slope in `name` is identified: it varies, and not only with labels or other quantities."""
    terms, _ = label_effects(work)
    others = [other for other in (work.size, work.per) if other and other != name and work.levels(other) > 1]
    columns = [np.ones(len(work))]
    columns += evaluate(terms, dict.fromkeys(terms, 0.0), work)[1].values()
    columns += [np.log(work.values[other]) for other in others]
    design = np.column_stack(columns)
    y = np.log(work.values[name])
    own = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return len(work) > design.shape[1] + 2 and float(np.sqrt(np.mean(own**2))) > LEAST_OWN_SPREAD


def target_of_runs(work: Work) -> Target:
    """Return runs as the target of a prediction."""
    return Target(values=work.values, labels=work.labels)


def evaluate(terms: Mapping[str, str], params: Mapping[str, float], work: Work) -> tuple[Array, dict[str, Array]]:
    """Return what terms add to the log response of each run, and its derivative by each parameter: (n,) each."""
    added, slopes = contributions(terms, params, target_of_runs(work))
    runs = len(work)
    return np.broadcast_to(added, runs), {name: np.broadcast_to(slope, runs) for name, slope in slopes.items()}


def scan(terms: Mapping[str, str], points: Mapping[str, Array], work: Work) -> Array:
    """Return what terms without labels add to the log response (n,) of each run at each of m points (m,): (n, m)."""
    values = {name: np.asarray(value)[:, None] for name, value in work.values.items()}
    return contributions(terms, points, Target(values=values, labels={}))[0]


def per_values(work: Work, per: str) -> Array:
    """Return the quantity (n,) that the response is divided by; 1 for `run`."""
    return np.broadcast_to(target_of_runs(work).value(per), len(work))


def _readable(name: str, term: str) -> str:
    parts = parse_term(term)
    if parts.kind == "one":
        return name
    if parts.kind in ("saturation", "roofline"):
        inside = f"e^{name}/{parts.name}"
        logarithm = f"log(1 + {inside})" if parts.power == 1 else f"log(1 + ({inside})^{parts.power:g})"
        return f"{logarithm}/{parts.power:g}" if parts.kind == "roofline" else logarithm
    return f"{name}·[{term}]" if parts.kind == "label" else f"{name}·{term}"
