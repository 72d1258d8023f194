"""Hand a finished run to experiment trackers (`report_to`): its settings, its metrics, its record and timeline.

    python -m lora_scaling.runs.trackers RECORD TRACKER

A process of its own does that for each tracker, after the record is written, and ends before the next run starts: no
import, thread or upload of a tracker is measured, and one that fails, hangs or crashes costs a warning.
"""

import contextlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_scaling.records import TIMELINE_NAME, read_record, record_to_row
from lora_scaling.records.row import NUMERIC_COLUMNS
from lora_scaling.settings import SETTINGS
from lora_scaling.text import printable

LIMIT_S = 180.0  # for one tracker to take one run
MOST_SAID = 500  # characters of a tracker's own reason
_SETTING_COLUMNS = frozenset(s.column for s in SETTINGS if s.column)
_LOCATION = "tensorboard"  # TensorBoard's folder, beside the record
_REASON = "lora-scaling: "  # begins the line that says why a run was not taken; a tracker may print others


def hand_over(path: Path, trackers: Sequence[str]) -> list[dict[str, str]]:
    """Hand the run of the record at `path` to each tracker; return a warning for each that did not take it."""
    warnings = []
    for name in trackers:
        if reason := _handed_over(path, name):
            warnings.append({"kind": "tracker", "message": f"{name} did not take the run: {reason}"})
    return warnings


def _handed_over(path: Path, name: str) -> str | None:
    """Return None if the tracker took the run, or the reason why not."""
    command = [sys.executable, "-m", __spec__.name, str(path), name]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S:.0f} s"
    except OSError as error:
        return f"its process could not start ({error.strerror})"
    if ended.returncode == 0:
        return None
    said = [line for line in ended.stderr.decode("utf-8", "replace").splitlines() if line.startswith(_REASON)]
    return printable(said[-1].removeprefix(_REASON)) if said else f"its process ended with status {ended.returncode}"


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run by their dotted names, those of `null` left out."""
    return dict(_flat(record["config"]))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((f"{prefix}{name}", value))
    return found


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what a run did and took: the numbers of its row that are known and no settings."""
    row = record_to_row(record)
    return {
        name: float(row[name])
        for name in NUMERIC_COLUMNS
        if name not in _SETTING_COLUMNS and row[name] is not None and math.isfinite(row[name])
    }


def _files(path: Path) -> list[Path]:
    return [file for file in (path, path.parent / TIMELINE_NAME) if file.is_file()]


def to_mlflow(path: Path, record: Mapping[str, Any]) -> None:
    """Log to the experiment named like the study, where MLFLOW_TRACKING_URI says."""
    import mlflow  # pyright: ignore[reportMissingImports]

    mlflow.set_experiment(record["study"])
    with mlflow.start_run(run_name=record["run_id"], tags={"source": "lora-scaling"}, log_system_metrics=False):
        mlflow.log_params({name: str(value)[:500] for name, value in settings_of(record).items()})
        mlflow.log_metrics(metrics_of(record))
        for file in _files(path):
            mlflow.log_artifact(str(file))


def to_wandb(path: Path, record: Mapping[str, Any]) -> None:
    """Log to the project named like the study, unless WANDB_PROJECT names another; WANDB_MODE=offline keeps it here."""
    import wandb  # pyright: ignore[reportMissingImports]

    project = os.environ.get("WANDB_PROJECT") or record["study"]
    run = wandb.init(project=project, name=record["run_id"], config=settings_of(record))
    run.log(metrics_of(record))
    for file in _files(path):
        run.save(str(file), base_path=str(path.parent), policy="now")
    run.finish()


def to_tensorboard(path: Path, record: Mapping[str, Any]) -> None:
    """Write an event file into the folder `tensorboard` beside the record: `tensorboard --logdir runs` shows all."""
    from torch.utils.tensorboard import SummaryWriter

    with contextlib.closing(SummaryWriter(str(path.parent / _LOCATION))) as writer:
        metrics = metrics_of(record)
        known = {name: value if isinstance(value, bool | int | float | str) else str(value)
                 for name, value in settings_of(record).items()}  # fmt: skip
        writer.add_hparams(known, metrics, run_name=".")
        for name, value in metrics.items():
            writer.add_scalar(name, value, 0)
        writer.add_text("record", f"```json\n{path.read_text(encoding='utf-8')}\n```")


def to_trackio(path: Path, record: Mapping[str, Any]) -> None:
    """Log to the project named like the study, in Trackio's own store."""
    import trackio  # pyright: ignore[reportMissingImports]

    trackio.init(project=record["study"], name=record["run_id"], config=settings_of(record))
    trackio.log(metrics_of(record))
    trackio.finish()


HANDLERS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "mlflow": to_mlflow,
    "wandb": to_wandb,
    "tensorboard": to_tensorboard,
    "trackio": to_trackio,
}


def main(words: Sequence[str]) -> int:
    """Hand the run of a record to one tracker; print the reason on stderr if it does not take it."""
    path, name = Path(words[0]), words[1]
    try:
        HANDLERS[name](path, read_record(path))
    except ModuleNotFoundError as error:
        print(f"{_REASON}{error.name} is not installed; pip install 'lora-scaling[{name}]'", file=sys.stderr)
        return 1
    except Exception as error:
        print(_REASON + " ".join(f"{type(error).__name__}: {error}".split())[:MOST_SAID], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
