"""A report in the format of BoAmps (Boavizta), version 0.1, of all runs of a table together.

https://github.com/Boavizta/BoAmps/tree/main/model: what it requires is given; what is not known is left out.
"""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lora_scaling.errors import UserError

from ..tables.run_quantities import one_name_each
from ..tables.table import RunTable

FORMAT_VERSION = "0.1"
FORMAT_URI = "https://github.com/Boavizta/BoAmps/tree/main/model"


def boamps(table: RunTable, *, now: datetime | None = None) -> str:
    """Return the JSON of the report.

    Raises:
        UserError: the energy of some run is not known.
    """
    frame = table.frame
    if frame.empty or frame["energy_kwh"].isna().any():
        raise UserError(
            "energy_kwh: unknown for some run; BoAmps reports an energy: leave these runs out with --exclude"
        )
    now = now or datetime.now(UTC)
    key = json.dumps([frame["run_id"].tolist(), frame["energy_kwh"].tolist()])
    document = {
        "header": {
            "formatVersion": FORMAT_VERSION,
            "formatVersionSpecificationUri": FORMAT_URI,
            "reportId": str(uuid.uuid5(uuid.NAMESPACE_URL, key)),
            "reportDatetime": now.strftime("%Y-%m-%d %H:%M:%S"),
            "reportStatus": "draft",
        },
        "task": {
            "taskStage": "finetuning",
            "taskFamily": "text generation",
            "algorithms": [_algorithm(rows) for _, rows in frame.groupby(["model", "method"], dropna=False)],
            "dataset": [{"dataUsage": "input", "dataType": "text", "dataQuantity": float(frame["samples_seen"].sum())}],
            "taskDescription": f"{len(frame)} runs; dataQuantity counts the samples shown, over all epochs and runs.",
        },
        "measures": [_measure(frame, ", ".join(table.kinds) or "lora-scaling")],
        "software": {"language": "python"},
        "infrastructure": {"infraType": "other", "components": _components(frame)},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _algorithm(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    params, epochs = rows["params"].dropna().unique(), rows["epochs"].dropna().unique()
    found: dict[str, Any] = {"trainingType": "supervisedLearning", "algorithmType": "llm"}
    if isinstance(first["model"], str):
        found["foundationModelName"] = first["model"]
    if isinstance(first["method"], str):
        found["optimizer"] = first["method"]
    if len(params) == 1:
        found["parametersNumber"] = float(params[0]) / 1e9
    if len(epochs) == 1:
        found["epochsNumber"] = float(epochs[0])
    return found


def _measure(frame: pd.DataFrame, method: str) -> dict[str, Any]:
    seconds = frame["total_s"].fillna(frame["train_s"])
    modes = {
        f"{part}TrackingMode": sorted(set(frame[f"energy_source_{part}"].dropna()) - {"none"})
        for part in ("cpu", "gpu")
    }
    found: dict[str, Any] = {
        "measurementMethod": method,
        "powerConsumption": float(frame["energy_kwh"].sum()),
    }
    found |= {name: ", ".join(sources) for name, sources in modes.items() if sources}
    if seconds.notna().all():
        found["measurementDuration"] = float(seconds.sum())
    started = pd.to_datetime(frame["started_at"], utc=True, errors="coerce", format="ISO8601")
    if started.notna().any():
        found["measurementDateTime"] = started.min().strftime("%Y-%m-%d %H:%M:%S")
    return found


def _components(frame: pd.DataFrame) -> list[dict[str, Any]]:
    counts = frame["gpu_count"].fillna(0)
    names = one_name_each(frame["hardware"]).fillna("unknown device")
    found = []
    for name, rows in frame.groupby(names):
        count = int(counts[rows.index].max())
        kind = "gpu" if count > 0 or rows["energy_gpu_kwh"].gt(0).any() else "cpu"
        found.append({"componentName": str(name), "componentType": kind, "nbComponent": max(1, count)})
    return found
