"""Run records: one JSON file a run, written whole or not at all, and the table made of them.

`<runs_dir>/<study>/<run_id>/run.json`, with `timeline.csv` beside it. A record is first written when a run starts,
as `interrupted`: a process that is killed leaves that, never a half-written file and never something that reads as
finished.
"""

import contextlib
import errno
import fcntl
import functools
import json
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lora_scaling.errors import RecordError, UnwritableError, UserError
from lora_scaling.paths import choices, config_dir, presets
from lora_scaling.records.provenance import host
from lora_scaling.units import JOULES_PER_KWH

SCHEMA_VERSION = 1
RECORD_NAME = "run.json"
TIMELINE_NAME = "timeline.csv"
STATUSES = ("ok", "failed", "oom", "interrupted")

Record = dict[str, Any]

# Settings of the work that have no word of their own in a table, as `settings_override` gives them.
_FURTHER = (
    "eval_samples", "loss_on", "chat_template", "gradient_accumulation", "padding", "group_by_length", "packing",
    "lora.alpha", "lora.dropout", "lora.target_modules", "precision", "gradient_checkpointing", "sharding", "optimizer",
    "learning_rate", "lr_scheduler", "weight_decay", "max_grad_norm", "seed", "warmup_steps",
    "device",
)  # fmt: skip

COLUMNS = (
    "run_id", "study", "status", "error", "replicate", "order", "session", "started_at", "host", "exclusive",
    "samples", "samples_seen", "epochs", "tokens_seen", "tokens_padded", "tokens_truncated", "tokens_trained",
    "steps", "batch_size", "gradient_accumulation", "max_seq_len", "method", "rank", "trainable_params",
    "model", "weights", "params", "layers", "hidden_size", "flops", "precision", "gradient_checkpointing",
    "data", "seed", "model_override", "data_override", "settings_override", "hardware", "gpu_count", "setup_reused",
    "setup_s", "warmup_s", "train_s", "eval_s", "total_s",
    "energy_kwh", "energy_setup_kwh", "energy_warmup_kwh", "energy_train_kwh", "energy_eval_kwh",
    "energy_gpu_kwh", "energy_cpu_kwh", "energy_ram_kwh", "energy_uncertainty_kwh", "energy_above_idle_kwh",
    "idle_power_w", "energy_source_gpu", "energy_source_cpu", "energy_source_ram",
    "intensity_g_per_kwh", "intensity_source", "intensity_status", "emissions_g",
    "train_loss", "eval_loss_before", "eval_loss_after", "peak_memory_gb", "mfu", "gpu_temperature_c",
)  # fmt: skip


def blank_record(*, run_id: str, study: str, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Record:
    """The record of work that starts now: all sections, nothing in them. A process that is killed leaves it so."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "study": study,
        "status": "interrupted",
        "error": None,
        "replicate": 0,
        "order": None,
        "session": None,
        "started_at": now(),
        "finished_at": None,
        "host": host(),
        "world_size": 1,
        "exclusive": None,
        "config": dict(config),
        "provenance": dict(provenance),
        "device": {},
        "model": {},
        "data": {},
        "work": {},
        "training": {},
        "setup_reused": [],
        "energy": None,
        "emissions": None,
        "emissions_history": [],
        "total_s": None,
        "peak_memory_gb": None,
        "mfu": None,
        "warnings": [],
    }


def now() -> str:
    """This moment as records write it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def record_path(runs_dir: str | Path, study: str, run_id: str) -> Path:
    return Path(runs_dir) / study / run_id / RECORD_NAME


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write atomically: the old record or the new one is there, whatever happens in between.

    Raises:
        UnwritableError: the folder cannot be written or the disk is full; the text says which.
    """
    text = json.dumps(_jsonable(record), indent=1, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, with the errors a person can act on."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise unwritable(path.parent, error) from None


def unwritable(folder: Path, error: OSError) -> UnwritableError:
    """Why nothing can be written under `runs_dir`, and what to do."""
    if error.errno == errno.ENOSPC:
        return UnwritableError(f"`runs_dir`: the disk of {folder} is full; free some space or give another runs_dir")
    return UnwritableError(
        f"`runs_dir`: {folder} cannot be written ({error.strerror}); give a folder that can, runs_dir=PATH"
    )


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        RecordError: it is not readable, not JSON, or of a schema this version does not know.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path} is not a run record: not valid JSON ({error})") from None
    if not isinstance(record, dict) or "schema_version" not in record or "run_id" not in record:
        raise RecordError(f"{path} is not a run record: it has no schema_version and run_id")
    if record["schema_version"] != SCHEMA_VERSION:
        raise RecordError(
            f"{path} has schema_version {record['schema_version']!r}; this version reads {SCHEMA_VERSION}: "
            "update lora-scaling, or make the record again"
        )
    if record.get("status") not in STATUSES:
        raise RecordError(f"{path} has status {record.get('status')!r}; allowed: {', '.join(STATUSES)}")
    return record


def find_records(paths: Iterable[str | Path]) -> list[Path]:
    """All record files below the given folders (or the files themselves), in order of path.

    Raises:
        UserError: a path does not exist.
    """
    found: set[Path] = set()
    for given in map(Path, paths):
        if given.is_file():
            found.add(given)
        elif given.is_dir():
            found.update(given.rglob(RECORD_NAME))
        else:
            raise UserError(f"`RUNS` was {given}, which is not there; give a folder of run records")
    return sorted(found)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a run for this process: yields False if another process has it. The lock dies with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError as error:  # a file system without locks
            raise unwritable(folder, error) from None
        else:
            mine = True
        yield mine
    finally:
        os.close(handle)


def is_finished(path: Path) -> bool:
    """Whether a complete run is recorded there; anything unreadable or unfinished is to be run again."""
    try:
        return read_record(path)["status"] == "ok"
    except RecordError:
        return False


def record_to_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table, with every column; unknown is None."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    for section in ("work", "training", "model"):
        row.update({key: value for key, value in _section(record, section).items() if key in row})
    row.update({key: record.get(key) for key in row if key in record and not isinstance(record[key], (dict, list))})
    config, device, model = (_section(record, key) for key in ("config", "device", "model"))
    method = config.get("method")  # our own is a group of settings; another program's a name
    tuned = method if isinstance(method, str) else _section(config, "method").get("name")
    row |= {
        "error": record.get("error"),
        "model": model.get("name"),
        "weights": model.get("weights"),
        "data": _section(record, "data").get("name"),
        "model_override": _model_override(_section(config, "model")),
        "data_override": _data_override(_section(config, "data")),
        "settings_override": _settings_override(config),
        "method": tuned,
        "rank": None if tuned == "full" else _section(config, "lora").get("r"),
        "hardware": device.get("name"),
        "gpu_count": device.get("gpu_count"),
        "setup_reused": bool(record["setup_reused"]) if "setup_reused" in record else None,
        "samples": config.get("samples"),
        "epochs": config.get("epochs"),
    }
    for key in ("batch_size", "gradient_accumulation", "max_seq_len", "gradient_checkpointing", "seed"):
        row[key] = config.get(key)
    return row | _energy_columns(record) | _emission_columns(record)


def _model_override(model: Mapping[str, Any]) -> str | None:
    """The words of a command line that choose this model again."""
    name = model.get("name")
    if name is None:
        return None
    unlisted = "gguf" if model.get("gguf_file") else "shape" if model.get("id") is None else "hub"
    return _group_override("model", name if name in presets("model") else unlisted, json.dumps(model))


def _data_override(data: Mapping[str, Any]) -> str | None:
    """The words of a command line that choose this data set again."""
    kind, name = data.get("kind"), data.get("name")
    if kind is None:
        return None
    listed = name in choices("data") and _yaml(f"data/{name}")["kind"] == kind
    return _group_override("data", str(name if listed else kind), json.dumps(data))


@functools.cache
def _group_override(group: str, option: str, section: str) -> str:
    """The words that choose an option of a group, and whatever a record's section of it (as JSON) has otherwise."""
    from omegaconf import OmegaConf

    from lora_scaling.config.compose import register_resolvers  # which in its turn knows this module

    register_resolvers()
    mine, listed = json.loads(section), _yaml(f"{group}/{option}")
    # What the option computes from its other settings, it will compute from the record's.
    stated = OmegaConf.to_container(OmegaConf.create({group: _overlaid(listed, mine)}), resolve=True)
    assert isinstance(stated, dict)
    return " ".join([f"{group}={option}", *_differing(f"{group}.", listed, stated[group], mine)])


def _overlaid(listed: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, Any]:
    """An option with the record's values wherever it computes none."""
    result: dict[str, Any] = {}
    for name, value in listed.items():
        own = mine.get(name, value)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            result[name] = _overlaid(value, own)
        else:
            result[name] = value if "${" in str(value) and not isinstance(value, Mapping) else own
    return result


def _differing(
    prefix: str, listed: Mapping[str, Any], stated: Mapping[str, Any], mine: Mapping[str, Any]
) -> Iterator[str]:
    for name, value in mine.items():
        before = listed.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and value.keys() <= before.keys():
            yield from _differing(f"{prefix}{name}.", before, stated[name], value)
        elif value != (stated.get(name) if "${" in str(before) else before):
            yield f"{prefix}{name}={_word(value)}"


@functools.cache
def _yaml(name: str) -> Mapping[str, Any]:
    """The settings of a file of conf/, as it has them."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.load(config_dir() / f"{name}.yaml"), resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _settings_override(config: Mapping[str, Any]) -> str | None:
    """The words of a command line for the further settings that are not at their defaults; "" where all are."""
    if "group_by_length" not in config:  # another program's work, or none
        return None
    words = []
    for name in _FURTHER:
        default = _setting(_yaml("config"), name, None)
        mine = _setting(config, name, default)  # an earlier version did not have it
        if name == "device":
            mine = str(mine).partition(":")[0]  # which one of its kind makes no difference
        if mine != default:
            words.append(f"{name}={_word(mine)}")
    return " ".join(words)


def _setting(config: Mapping[str, Any], name: str, absent: Any) -> Any:
    group, _, field = name.rpartition(".")
    return (_section(config, group) if group else config).get(field, absent)


def _word(value: Any) -> str:
    """A value as an override writes it, for a shell."""
    if isinstance(value, Mapping):
        pairs = (
            f'{key}: "{item}"' if isinstance(item, str) else f"{key}: {_word(item)}" for key, item in value.items()
        )
        return shlex.quote(f"{{{', '.join(pairs)}}}")
    if isinstance(value, list):
        return shlex.quote(f"[{','.join(map(str, value))}]")
    if isinstance(value, str):
        return shlex.quote(f'"{value}"' if re.fullmatch(r"[\d_.eE+-]+", value) else value)  # 12e3 may be a revision
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _energy_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    energy = _section(record, "energy")
    phases = energy.get("phases") or []
    columns: dict[str, Any] = {}
    for name in ("setup", "warmup", "train", "eval"):
        mine = [phase for phase in phases if phase.get("name") == name]
        columns[f"{name}_s"] = sum(phase["seconds"] for phase in mine) if mine else None
        columns[f"energy_{name}_kwh"] = _kwh(_sum(map(_phase_joules, mine))) if mine else None
    components = _section(energy, "components")
    for name in ("gpu", "cpu", "ram"):
        component = _section(components, name)
        columns[f"energy_{name}_kwh"] = _kwh(component.get("joules"))
        columns[f"energy_source_{name}"] = component.get("source")
    conditions, idle = _section(energy, "conditions"), _section(energy, "idle")
    return columns | {
        "energy_kwh": _kwh(energy.get("joules")) if _is_whole(record) else None,
        "energy_uncertainty_kwh": _kwh(energy.get("uncertainty_joules")),
        "energy_above_idle_kwh": _kwh(energy.get("above_idle_joules")),
        "idle_power_w": idle.get("power_w"),
        "gpu_temperature_c": conditions.get("gpu_temperature_c"),
    }


def _emission_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    emissions = _section(record, "emissions")
    return {
        "emissions_g": emissions.get("grams") if _is_whole(record) else None,
        "intensity_g_per_kwh": emissions.get("intensity_g_per_kwh"),
        "intensity_source": emissions.get("provider"),
        "intensity_status": emissions.get("status"),
    }


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Whether the energy lacks no part that should be there: what is left after a GPU was lost is not the run's."""
    return bool(_section(record, "energy").get("complete", True))


def missing_part(record: Mapping[str, Any]) -> str | None:
    """The components whose energy should be in the record's and is unknown; None where nothing is missing."""
    if _is_whole(record):
        return None
    parts = _section(_section(record, "energy"), "components").items()
    return " and ".join(name for name, part in parts if part["joules"] is None and part["source"] != "none")


def _phase_joules(phase: Mapping[str, Any]) -> float | None:
    """A phase's energy over the components there are; None if one that should be there is unknown."""
    parts = [part for part in _section(phase, "components").values() if part.get("source") != "none"]
    return _sum(part.get("joules") for part in parts) if parts else None


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / JOULES_PER_KWH


def _section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _jsonable(value: Any) -> Any:
    """NaN and infinities become null: JSON has no word for them, and unknown is null.

    Other people's code notes what it has at hand: numpy's and torch's scalars are numbers, all else is its text.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    with contextlib.suppress(AttributeError, TypeError, ValueError, RuntimeError):
        return _jsonable(value.item())
    return str(value)
