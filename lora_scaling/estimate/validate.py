"""Compare estimates with published runs, and with what people use instead.

    python -m lora_scaling.estimate.validate [--out FILE]

`published.csv` holds one published figure a row: the stack and the source, the settings that express the run, the
figure, and where it was read. Each run is estimated from these settings alone, as a user would do it: once with its
own stack, and once as that of a stack that nobody knows (`stack=other`).
"""

import argparse
import csv
import functools
import math
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_scaling.config import compose
from lora_scaling.config.devices import preset
from lora_scaling.estimate.estimator import estimate
from lora_scaling.estimate.result import Estimate, Interval
from lora_scaling.records import write_text
from lora_scaling.units import JOULES_PER_KWH

_PUBLISHED = Path(__file__).with_name("published.csv")
STRANGER = "other"
MEMORY, ENERGY, HOURS = "peak, GB", "energy, kWh", "time, h"
TRAINING_ENERGY = "train, kWh"
_QUANTITIES = {
    "peak GB": MEMORY,
    "run kWh": ENERGY,
    "train kWh": TRAINING_ENERGY,
    "run h": HOURS,
    "train s": "train, s",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One published figure, its estimate with the stack known, and as that of a stranger's stack.

    rivals: what other methods say, by name.
    """

    source: str
    stack: str
    name: str
    quantity: str
    published: float
    estimate: Interval
    stranger: Interval
    rivals: Mapping[str, float]
    tokens_known: bool
    note: str

    @property
    def ratio(self) -> float:
        return self.estimate.estimate / self.published

    @property
    def inside(self) -> bool:
        return self.estimate.low <= self.published <= self.estimate.high

    @property
    def inside_as_stranger(self) -> bool:
        return self.stranger.low <= self.published <= self.stranger.high


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lora_scaling.estimate.validate", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the page there instead of printing it")
    out = parser.parse_args(arguments).out
    page = render(checks())
    if out is None:
        print(page)
    else:
        write_text(out, page + "\n", setting="--out")


def published_rows() -> list[dict[str, str]]:
    """Return the rows of the table."""
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def checks() -> list[Check]:
    """Estimate every published figure."""
    return [_check(row) for row in published_rows()]


@functools.cache
def _estimated(overrides: str, stack: str) -> tuple[Estimate, Estimate]:
    """Estimate a run with its own stack, and as a stranger's. Several figures of a run share it."""
    config = compose(shlex.split(overrides))
    return estimate(config, stack=stack), estimate(config, stack=STRANGER)


def _check(row: Mapping[str, str]) -> Check:
    quantity, published = _QUANTITIES[row["quantity"]], float(row["value"])
    own, stranger = _estimated(row["overrides"], row["stack"])
    return Check(
        source=row["source"],
        stack=row["stack"],
        name=row["id"],
        quantity=quantity,
        published=published,
        estimate=_figure(own, quantity),
        stranger=_figure(stranger, quantity),
        rivals=_rivals(own, quantity, published),
        tokens_known=row["tokens_known"] == "yes",
        note=row["note"],
    )


def _figure(answer: Estimate, quantity: str) -> Interval:
    """Return the figure of an estimate that was published: of the training, or of the whole run."""
    if quantity == MEMORY:
        return answer.memory.peak_gb
    assert answer.time_s is not None
    assert answer.energy_kwh is not None
    if quantity == ENERGY:
        return answer.energy_kwh
    if quantity == TRAINING_ENERGY:
        return answer.energy_kwh.scaled(answer.parts["train"].energy_kwh / answer.energy_kwh.estimate)
    if quantity == HOURS:
        return answer.time_s.scaled(1 / 3600)
    return answer.time_s.scaled(answer.parts["train"].seconds / answer.time_s.estimate)


def _rivals(answer: Estimate, quantity: str, published: float) -> dict[str, float]:
    """Return what others would say of this figure.

    6ND: 6 · parameters · tokens at 0.4 of the dense 16-bit peak, and the board power for that time. hours x TDP and
    Green Algorithms need the hours; they get those that the estimate gives, as nobody knows them before the run.
    Green Algorithms adds 0.3725 W a GB of memory (64 GB assumed) and its default PUE of 1.67. LLMCarbon: 6ND at its
    efficiency of 0.47 for a tuned cluster, and a PUE of 1.1. accelerate: its "training using Adam", four times the
    weights in the precision of the run, whatever the method.
    """
    work, sheet = answer.work, preset(answer.hardware)
    params = work["params"]
    if quantity == MEMORY:
        return {"accelerate estimate-memory": 4 * 2 * params / 1e9 / answer.memory.shards}
    peak = (sheet.peak_tflops["bf16"] or sheet.peak_tflops["fp16"] or math.nan) * 1e12 * answer.gpu_count
    tokens = work["tokens"] + work["tokens_padded"]
    seconds = {"6ND at 0.4 of the peak": 0.4, "LLMCarbon": 0.47}
    times = {name: 6 * params * tokens / (share * peak) for name, share in seconds.items()}
    if kind_of(quantity) != "energy":
        scale = 3600 if quantity == HOURS else 1
        return {name: s / scale for name, s in times.items()}
    assert answer.time_s is not None
    hours, board = answer.time_s.estimate, (sheet.board_power_w or math.nan) * answer.gpu_count
    watts = {
        "6ND at 0.4 of the peak": times["6ND at 0.4 of the peak"] * board,
        "LLMCarbon": times["LLMCarbon"] * board * 1.1,
        "hours x TDP": hours * board,
        "Green Algorithms": hours * (board + 0.3725 * 64) * 1.67,
    }
    return {name: joules / JOULES_PER_KWH for name, joules in watts.items()}


def kind_of(quantity: str) -> str:
    """Return time, energy or memory."""
    return {MEMORY: "memory", ENERGY: "energy", TRAINING_ENERGY: "energy"}.get(quantity, "time")


def render(found: Sequence[Check]) -> str:
    """Render the page as Markdown."""
    lines = [
        "# The estimator against published runs",
        "",
        "Written by `python -m lora_scaling.estimate.validate --out docs/estimator_validation.md`; do not edit.",
        "Every row is estimated from its settings and `priors.json` alone. The interval level is 90 %.",
        "The priors were fitted to times and peaks of these sources together (one vote each), but for torchtitan and",
        "TinyLlama, so the first table is agreement, not a blind test. The second one estimates each row as that of a",
        "stack that nobody knows.",
        "",
        "## Each source, its stack known",
        "",
        "| source | stack | figure | rows | ratio | inside | within 20 % | median high/low |",
        "|---|---|---|---|---|---|---|---|",
        *(_source_row(key, rows) for key, rows in _grouped(found, lambda c: (c.source, c.quantity)).items()),
        "",
        "## By stack",
        "",
        "Each row with the name of its stack, and as a stranger's (`stack=other`). Ratio: geometric mean of estimate ÷",
        "published. The last column is the width of a stranger's interval.",
        "",
        "| stack | figure | rows | named: ratio | inside | stranger's: ratio | inside | median high/low |",
        "|---|---|---|---|---|---|---|---|",
        *_by_stack(found),
        "",
        *_LEFT_OUT,
        "",
        "## Beside what people use instead",
        "",
        "The same rows. Error: the median factor between estimate and published figure, in either direction, as the",
        "median over the sources.",
        "",
        "| figure | method | sources | error | ratio |",
        "|---|---|---|---|---|",
        *_beside(found),
        "",
        *_EXPLAINED,
        "",
        "## Rows",
        "",
        "| source | run | figure | published | estimate | interval | ratio | |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(c) for c in found),
        "",
        "References: see `lora_scaling/estimate/published.csv`, one per row.",
    ]
    return "\n".join(lines)


_LEFT_OUT = (
    "No single stack can be promised within ×1.15 of a stranger's estimate, for the stacks themselves differ: "
    "torchtune and Unsloth take 0.8 times as long as the mean of all, and hold less memory because they compute the "
    "loss in chunks, which a stranger's estimate does not assume (its interval reaches down to that). The name of the "
    "stack says it.",
    "",
    "Left out in turn, with all constants fitted again to the other sources (`python -m benchmarks.fit_priors FOLDER` "
    "prints this, for your own rows too; this command does not repeat it), the times of a source were estimated at: "
    "LitGPT A10G 0.81, LitGPT A100 1.11, PEFT 1.35, torchtune 1.30 and 1.40, NeMo 1.46, MPT on A100 1.13 and 1.15, on "
    "H100 0.87 and 1.01, in FP8 0.80, Qwen 1.04, Vertex 0.64, MLPerf 1.02, Answer.AI 1.16, LLaMA-Factory 1.25, with "
    "Unsloth 1.52, Unsloth on T4 0.89 and on A100 1.05, OLMo-core 1.04, the DIA lab 1.27, Tucano 1.04, TeenyTinyLlama "
    "0.48, the case study 1.74. The mean by source is 1.07, with a spread (log) of 0.28; 98 % lie inside "
    "intervals of a width (high/low) of 4.4. Peaks of memory: LitGPT 0.93 and 1.03, PEFT 1.12, torchtune 1.09 and "
    "1.20, Qwen 0.97, Vertex 0.80, Answer.AI 0.86, LLaMA-Factory 0.92, with Unsloth 0.90, Unsloth on T4 0.97 and on "
    "A100 0.74, SWIFT 1.35, the case study 0.56; by source 96 % lie inside, and the mean is 0.94.",
    "",
    "The rows of torchtitan and TinyLlama were added after the fit, which does not see them. As those of a stack that "
    "nobody knows, all 13 lie inside, at 0.73 to 1.17 times what was measured. Those of the DIA lab, Tucano and "
    "TeenyTinyLlama and Olmo 3's energy were estimated once before the fit saw them: as a stranger's, all ten energies "
    "(0.58 to 2.2 times what was measured, 0.97 as a mean by source) and all eight times (0.46 to 1.5) lay inside.",
    "",
    "With the speed of one row given as `measured=`, with its settings, the times of the others of its source lie "
    "inside intervals of a median width of 2.2: 94 % of them by source (`python -m benchmarks.measured_coverage`), and "
    "half of those of LitGPT on A10G, whose token counts are unknown.",
)
_EXPLAINED = (
    "## What it does not know",
    "",
    "- Offloaded activations and pipelines, compilation, tensor and context parallelism: no setting describes them. "
    "OLMo-core's runs on 512 to 1,024 GPUs are estimated as one node of them.",
    "- LitGPT gives no token counts (about 100 per sample are assumed), and its times may include evaluation. The two "
    "Gemma-2B rows are those of its configuration files: rank 8 (LoRA) and 16 (QLoRA) on all linear layers. The "
    "adapter of their head is not counted. Nor are there token counts of Unsloth's notebooks and of SWIFT, whose times "
    "are left out for it.",
    "- DeepSpeed's optimizer with 32-bit master weights: short steps of full fine-tuning take twice as long (Qwen).",
    "- QLoRA reserves 1.5 to 4 GB more than its tensors need with bitsandbytes, nothing with torchtune's NF4. Where "
    "lengths vary, the allocator may keep as much as the whole card (the case study, SWIFT). The interval of memory is "
    "wider for both, and upwards for the latter.",
    "- torchtune's loss is computed in chunks, as its configurations have it; the rows `+Packed` and `+Compile` are "
    "from before that. Of a stack that nobody knows, the interval of memory reaches down to that of such a loss.",
    "- Energy is known of thirteen runs of seven sources. Six are of GPUs alone (Tucano's, whose boards drew 453 to "
    "475 W and so cannot be the listed ones of 400 W, and Olmo 3's, as somebody summed up its public logs), one is of "
    "a node at the wall; the others are CodeCarbon's, which takes 42.5 W for a processor that it does not know and 31 "
    "to 189 W for memory, by how much a machine has. Four are of LoRA or QLoRA on one card. Matrix products in 32 bit "
    "draw less than those in 16 (the DIA lab's A100 at 359 W in all, estimated at 530).",
    "- TeenyTinyLlama was trained in TF32 without an attention kernel, which no setting describes.",
    "- No source is an Apple chip, a Jetson, an RTX 50 or a Blackwell card other than B200; AMD's are MI300X alone. An "
    "RTX PRO 6000 took 1.3 to 2.3 times as long as an H100 (median 2.0, estimated 1.9) in the table of "
    "ljm565/universal-llm-trainer, whose own steps are 2 to 4 times slower than any stack's here. "
    "The README of mlx-examples gives 475 tokens/s for Llama-7B on an M2 Ultra (estimated at 480) and 250 for "
    "Mistral-7B on an M1 Max (140), both with adapters in a part of the layers only, which no setting describes.",
    "- A step of few tokens lasts as long as the launches of its layers. A model of more, narrower layers is then "
    "slower than a larger one of fewer, as LitGPT measured (phi-1.5 against StableLM-3B).",
    "- Most timed rows come from three sources, MPT, Qwen and Answer.AI: read the sources, and not the totals.",
)


def _grouped(found: Sequence[Check], key: Callable[[Check], tuple[str, ...]]) -> dict[tuple[str, ...], list[Check]]:
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in found:
        groups.setdefault(key(check), []).append(check)
    return groups


def _source_row(key: tuple[str, ...], rows: Sequence[Check]) -> str:
    close = sum(abs(c.ratio - 1) <= 0.2 for c in rows)
    return (
        f"| {key[0]} | {rows[0].stack} | {key[1]} | {len(rows)} | {_mean_ratio([c.ratio for c in rows]):.2f} | "
        f"{_share([c.inside for c in rows])} | {close} | {statistics.median(c.estimate.ratio for c in rows):.1f} |"
    )


def _by_stack(found: Sequence[Check]) -> list[str]:
    lines = []
    for kind in ("time", "energy", "memory"):
        groups = _grouped([c for c in found if kind_of(c.quantity) == kind], lambda c: (c.stack,))
        columns: list[tuple[float, float, float, float, float]] = []
        for (stack,), rows in groups.items():
            named = _mean_ratio([c.ratio for c in rows])
            stranger = _mean_ratio([c.stranger.estimate / c.published for c in rows])
            inside, as_stranger = [c.inside for c in rows], [c.inside_as_stranger for c in rows]
            width = statistics.median(c.stranger.ratio for c in rows)
            columns.append((named, statistics.fmean(inside), stranger, statistics.fmean(as_stranger), width))
            lines.append(
                f"| {stack} | {kind} | {len(rows)} | {named:.2f} | {_share(inside)} | {stranger:.2f} | "
                f"{_share(as_stranger)} | {width:.1f} |"
            )
        named, inside, stranger, as_stranger, widths = zip(*columns, strict=True)
        lines.append(
            f"| **mean of {len(groups)}** | **{kind}** | | {_mean_ratio(named):.2f} | {statistics.fmean(inside):.0%} | "
            f"{_mean_ratio(stranger):.2f} | {statistics.fmean(as_stranger):.0%} | {statistics.median(widths):.1f} |"
        )
    return lines


def _beside(found: Sequence[Check]) -> list[str]:
    lines = []
    for kind in ("time", "energy", "memory"):
        rows = [c for c in found if kind_of(c.quantity) == kind]
        names = list(dict.fromkeys(name for c in rows for name in c.rivals))
        said: dict[str, Callable[[Check], float]] = {
            "this, with the stack": lambda c: c.estimate.estimate,
            "this, as a stranger's": lambda c: c.stranger.estimate,
            **{name: lambda c, name=name: c.rivals[name] for name in names},
        }
        for name, value in said.items():
            groups = _grouped(rows, lambda c: (c.source,)).values()
            errors = [statistics.median(abs(math.log(value(c) / c.published)) for c in group) for group in groups]
            ratio = _mean_ratio([_mean_ratio([value(c) / c.published for c in group]) for group in groups])
            lines.append(
                f"| {kind} | {name} | {len(errors)} | {math.exp(statistics.median(errors)):.2f} | {ratio:.2f} |"
            )
    return lines


def _mean_ratio(ratios: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


def _share(inside: Sequence[bool]) -> str:
    return f"{sum(inside)} ({sum(inside) / len(inside):.0%})"


def _row(c: Check) -> str:
    e = c.estimate
    outside = "" if c.inside else "outside"
    return (
        f"| {c.source} | {c.name} | {c.quantity} | {c.published:.4g} | {e.estimate:.3g} | {e.low:.3g} … {e.high:.3g} | "
        f"{c.ratio:.2f} | {outside} |"
    )


if __name__ == "__main__":
    main()
