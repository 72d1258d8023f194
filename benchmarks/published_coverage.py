"""Measure the coverage of prediction intervals on published runs: fit small models or short runs, predict large ones.

python -m benchmarks.published_coverage FOLDER

FOLDER holds `mpt_a100_full.csv` (llm-foundry's table of throughput: MPT of 125M to 30B, full training on A100) and
`peft_l40s_windows.csv` (PEFT's MetaMathQA benchmark: the time of each 1,000 samples, LoRA on Llama-3.2-3B).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.energy_model.extrapolate import extrapolate
from analysis.energy_model.family import target_of_runs
from analysis.energy_model.validated_fit import validated_fit
from analysis.tables.run_quantities import work_of
from analysis.tables.table import RunTable, table_from_frame

LEAST_SIZES = 4  # models that are fitted
A100_PEAK = 312e12  # FLOP/s, dense bf16, by which llm-foundry's utilisation is
TOKENS = 1e8  # of each run made of a throughput
WINDOW = 1000  # samples
LEAST_WINDOWS, MOST_WINDOWS, ALL_WINDOWS = 4, 10, 20
# What a table may tell of the FLOPs: nothing but the parameters, those of the model (llm-foundry's MFU), or those that
# the device did (HFU), with the recomputation of activations, which mostly the larger models did.
COUNTS = {"by parameters": None, "the model's": "MFU", "with recomputation": "HFU"}
FULL_S = 1813.0  # full fine-tuning in PEFT's benchmark, same model, data and device as the windows


@dataclass(frozen=True, kw_only=True)
class PublishedPrediction:
    """A published time with what was predicted of it: `source` names the kind, `beyond` the factor outside the data."""

    source: str
    observed: float
    estimate: float
    low: float
    high: float
    beyond: float

    @property
    def covered(self) -> bool:
        return self.low <= self.observed <= self.high


def mpt_predictions(path: Path, count: str) -> Iterator[PublishedPrediction]:
    """Predict each larger model from the smaller ones: same device, number of devices and length of sequences.

    `count` of COUNTS says what the tables tell of the FLOPs.
    """
    rows = pd.read_csv(path)
    names = {"a100_80gb": "NVIDIA A100-SXM4-80GB", "a100_40gb": "NVIDIA A100-SXM4-40GB"}
    rows = rows.assign(
        hardware=rows["GPU"].map(names), gpu_count=rows["# GPUs"], length=rows["SeqLen (T)"], params=rows["NumParams"]
    )
    rows["train_s"] = TOKENS / (rows["Throughput (T/s/GPU)"] * rows["gpu_count"])
    utilisation = np.nan if COUNTS[count] is None else rows[COUNTS[count]]
    rows["flops"] = utilisation / 100 * A100_PEAK / rows["Throughput (T/s/GPU)"] * TOKENS
    for _, group in rows.groupby(["hardware", "gpu_count", "length"]):
        sizes = sorted(group["Model"].unique(), key=lambda name: float(group["params"][group["Model"] == name].min()))
        for smaller in range(LEAST_SIZES, len(sizes)):
            fitted = group[group["Model"].isin(sizes[:smaller])]
            yield from _predict(f"MPT, FLOPs {count}", fitted, group[group["Model"].isin(sizes[smaller:])])


def _predict(source: str, fitted: pd.DataFrame, new: pd.DataFrame) -> Iterator[PublishedPrediction]:
    result = validated_fit(_table(fitted))
    frame = _table(new).frame
    work, _, _ = work_of(frame, frame["train_s"].to_numpy(dtype=float))
    bands = result.fitted.fit.training(target_of_runs(work))
    beyond = work.values["params"] / float(fitted["params"].max())
    for i, observed in enumerate(np.exp(work.log_y)):
        yield PublishedPrediction(
            source=source,
            observed=float(observed),
            estimate=float(bands.estimate[i]),
            low=float(bands.low[i]),
            high=float(bands.high[i]),
            beyond=float(beyond[i]),
        )


def _table(rows: pd.DataFrame) -> RunTable:
    """Return runs of TOKENS tokens each, by their time."""
    frame = pd.DataFrame(
        {
            "run_id": [f"{model}-{i}" for i, model in zip(rows.index, rows["Model"], strict=True)],
            "samples": np.round(TOKENS / rows["length"]),
            "epochs": 1,
            "method": "full",
            "precision": "bf16",
            "tokens_seen": TOKENS,
            "tokens_padded": 0,
        }
    )
    for name in ("hardware", "gpu_count", "params", "flops", "train_s"):
        frame[name] = rows[name].to_numpy()
    return table_from_frame(frame.assign(total_s=frame["train_s"]), response="time")


def peft_predictions(path: Path) -> Iterator[PublishedPrediction]:
    """Predict 20,000 samples from the first thousands, and full fine-tuning from all runs of LoRA."""
    windows = pd.read_csv(path)
    samples = windows["samples_end"].to_numpy(dtype=float)
    frame = pd.DataFrame(
        {
            "run_id": [f"first-{int(n)}" for n in samples],
            "samples": samples,
            "epochs": 1,
            "model": "meta-llama/Llama-3.2-3B",
            "method": "lora",
            "rank": windows["rank"],
            "settings_override": "lora.target_modules=[q_proj,v_proj]",
            "hardware": "NVIDIA L40S",
            "precision": "bf16",
            "batch_size": 4,
            "max_seq_len": 768,
            "tokens_seen": windows["tokens"].cumsum(),
            "train_s": windows["window_s"].cumsum(),
        }
    )
    asked = [f"samples={ALL_WINDOWS * WINDOW}", "eval_samples=0"]
    for count in range(LEAST_WINDOWS, MOST_WINDOWS + 1):
        table = table_from_frame(frame.head(count), response="time")
        yield _of_document("PEFT, 20,000 samples", table, asked, float(frame["train_s"].iloc[-1]), ALL_WINDOWS / count)
    table = table_from_frame(frame, response="time")
    yield _of_document("PEFT, LoRA → full", table, [*asked, "method=full"], FULL_S, 1.0)


def _of_document(
    source: str, table: RunTable, overrides: Sequence[str], observed: float, beyond: float
) -> PublishedPrediction:
    found = extrapolate(table, overrides).document["time_s"]
    ends = {name: found[name] for name in ("estimate", "low", "high")}
    return PublishedPrediction(source=source, observed=observed, beyond=beyond, **ends)


def format_source(source: str, found: Sequence[PublishedPrediction]) -> str:
    """Format one source: how many predictions, the share inside their interval, median error and width."""
    inside = np.mean([one.covered for one in found])
    error = np.median([abs(one.estimate / one.observed - 1) for one in found])
    width = np.median([one.high / one.low for one in found])
    beyond = [one.beyond for one in found]
    return (
        f"{source:<30} {len(found):>4} predictions, {100 * inside:.0f} % inside their 90 % interval; "
        f"median error {100 * error:.1f} %, high ÷ low ×{width:.2f}; {min(beyond):.2g} to {max(beyond):.2g}× beyond"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the coverage of each source."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_coverage", description="Coverage on published runs."
    )
    parser.add_argument("folder", type=Path, help="folder with mpt_a100_full.csv and peft_l40s_windows.csv")
    folder = parser.parse_args(argv).folder
    found = [
        *(one for count in COUNTS for one in mpt_predictions(folder / "mpt_a100_full.csv", count)),
        *peft_predictions(folder / "peft_l40s_windows.csv"),
    ]
    for source in dict.fromkeys(one.source for one in found):
        print(format_source(source, [one for one in found if one.source == source]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
