"""Define the types of a run record, and check that a file conforms to them.

A record is first written when a run starts, as `interrupted`. A process that is killed leaves this state, and never a
record that looks finished. Sections of work that never began are empty, and unknown values are None.
"""

import contextlib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Required, TypedDict

from lora_scaling.errors import RecordError
from lora_scaling.records.provenance import host

SCHEMA_VERSION = 1
STATUSES = ("ok", "failed", "oom", "interrupted")

Record = dict[str, Any]  # a record in the making, section by section

_DEEPEST = 64  # levels of nesting
_LARGEST = sys.float_info.max  # JSON has larger whole numbers
_SHOWN = 40  # characters of a wrong value in a sentence


class Component(TypedDict, total=False):
    """Energy of one component; None, with the reason, if it is unknown."""

    joules: float | None
    source: str
    uncertainty_joules: float | None
    reason: str | None


class Phase(TypedDict, total=False):
    """One window: setup, warmup, train or eval."""

    name: str
    seconds: float
    components: dict[str, Component]


class Idle(TypedDict, total=False):
    """The idle baseline."""

    power_w: float | None


class Conditions(TypedDict, total=False):
    """Notes on the machine while the work ran."""

    gpu_temperature_c: float | None


class Energy(TypedDict, total=False):
    """The energy section: what `EnergyAccount.to_dict` writes."""

    phases: list[Phase]
    joules: float | None
    complete: bool
    components: dict[str, Component]
    uncertainty_joules: float | None
    idle: Idle | None
    above_idle_joules: float | None
    conditions: Conditions
    timeline: str | None


class Emissions(TypedDict, total=False):
    """The last computation of grams: what `EmissionsRevision.to_dict` writes."""

    revision: int
    grams: float | None
    energy_kwh: float | None
    intensity_g_per_kwh: float | None
    pue: float
    status: str
    provider: str
    zone: str | None
    definition: str
    attribution: str | None
    reason: str | None
    settings: dict[str, Any]


class Device(TypedDict, total=False):
    """The device of the work."""

    kind: str | None
    name: str | None
    gpu_count: int | None


class Model(TypedDict, total=False):
    """The model, as it was loaded."""

    name: str | None
    weights: str | None


class Data(TypedDict, total=False):
    """The data set, as it was read."""

    name: str | None


class Provenance(TypedDict, total=False):
    """What is needed to repeat a run."""

    packages: dict[str, str | None]
    python: str
    platform: str
    commit: str | None
    dirty: bool | None
    command: list[str]


class Warned(TypedDict, total=False):
    """A warning about a run."""

    kind: str
    message: str


class RunRecord(TypedDict, total=False):
    """One run. `config` is the composed configuration, or the settings noted by another program."""

    schema_version: Required[int]
    run_id: Required[str]
    study: str
    status: Required[str]
    error: str | None
    traceback: str
    replicate: int
    order: int | None
    session: str | None
    started_at: str
    finished_at: str | None
    host: str
    world_size: int
    exclusive: bool | None
    config: dict[str, Any]
    provenance: Provenance
    device: Device
    model: Model
    data: Data
    work: dict[str, Any]
    training: dict[str, Any]
    setup_reused: list[str]
    energy: Energy | None
    emissions: Emissions | None
    emissions_history: list[Emissions]
    total_s: float | None
    peak_memory_gb: float | None
    mfu: float | None
    warnings: list[Warned]


def blank_record(*, run_id: str, study: str, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Record:
    """Make the record of work that starts now, with all sections empty."""
    record: RunRecord = {
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
        "provenance": typing.cast(Provenance, dict(provenance)),
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
    return dict(record)


def now() -> str:
    """Return the present time as records write it: UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def now_after(started_at: str) -> str:
    """Return the present moment; the start itself if the clock was set back to before it."""
    return max(now(), started_at)


def to_json(record: Mapping[str, Any]) -> str:
    """Write a record as text. NaN and infinities become null, because JSON lacks them and unknown is null."""
    return json.dumps(_jsonable(record), indent=1, allow_nan=False) + "\n"


def from_json(text: str, where: str) -> RunRecord:
    """Read a record and check its shape.

    Raises:
        RecordError: the text is not JSON, has a schema that this version does not know, or has a value that the schema
            does not allow; the sentence begins with `where` and names the value.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecordError(f"{where} is not a run record: not valid JSON ({why})") from None
    if not isinstance(record, dict) or "schema_version" not in record or "run_id" not in record:
        raise RecordError(f"{where} is not a run record: it has no schema_version and run_id")
    if record["schema_version"] != SCHEMA_VERSION:
        raise RecordError(
            f"{where} has schema_version {_shown(record['schema_version'])}; this version reads {SCHEMA_VERSION}: "
            "update lora-scaling, or make the record again"
        )
    if record.get("status") not in STATUSES:
        raise RecordError(f"{where} has status {_shown(record.get('status'))}; allowed: {', '.join(STATUSES)}")
    try:
        _check_values(record)
        _check_mapping(record, RunRecord, "")
        _check_times(record)
    except _Damage as damage:
        raise RecordError(f"{where} is not a run record: {damage}") from None
    return typing.cast(RunRecord, record)


class _Damage(Exception):
    """A value that a record cannot hold."""


def _check_values(record: Any) -> None:
    """Refuse text that is not Unicode, numbers beyond a double, and nesting deeper than any record's."""
    level = [record]
    for _ in range(_DEEPEST):
        below = []
        for value in level:
            if isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                if not value.isascii() and _SURROGATE.search(value):
                    raise _Damage("it holds text that is not Unicode (a lone surrogate)")
            elif isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:
                raise _Damage("it holds a number beyond the range of a double, or NaN")
        if not below:
            return
        level = below
    raise _Damage(f"it is nested more than {_DEEPEST} levels deep")


_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_mapping(mapping: Mapping[str, Any], schema: type, path: str) -> None:
    for name, hint in _hints(schema):
        if name in mapping:
            _check(mapping[name], hint, f"{path}{name}")


def _check(value: Any, hint: Any, path: str) -> None:
    """Check a value against the type hint of a field, which a path such as `energy.joules` names."""
    if (hint is float and type(value) in (float, int)) or type(value) is hint or hint is Any:
        return
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only with None
        if value is not None:
            _check(value, arguments[0], path)
    elif typing.is_typeddict(hint) and isinstance(value, dict):
        _check_mapping(value, hint, f"{path}.")
    elif origin is dict and isinstance(value, dict):
        if arguments[1] is not Any:
            for key, item in value.items():
                _check(item, arguments[1], f"{path}.{key}")
    elif origin is list and isinstance(value, list):
        for number, item in enumerate(value):
            _check(item, arguments[0], f"{path}[{number}]")
    else:
        raise _Damage(f"`{path}` was {_shown(value)}; expected {_described(hint)}")


def _check_times(record: Mapping[str, Any]) -> None:
    for name in ("started_at", "finished_at"):
        text = record.get(name)
        if text is not None:
            try:
                datetime.fromisoformat(text)
            except ValueError:
                raise _Damage(f"`{name}` was {_shown(text)}; expected a time in ISO 8601") from None


_HINTS: dict[type, tuple[tuple[str, Any], ...]] = {}


def _hints(schema: type) -> tuple[tuple[str, Any], ...]:
    if schema not in _HINTS:
        _HINTS[schema] = tuple(typing.get_type_hints(schema).items())
    return _HINTS[schema]


def _shown(value: Any) -> str:
    """Format a wrong value for a sentence: in ASCII, and never long."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if value is not None else "null"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _described(hint: Any) -> str:
    names: dict[Any, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    if typing.get_origin(hint) is list:
        return "a list"
    return names.get(hint, "an object")


def _jsonable(value: Any) -> Any:
    """Convert to JSON: scalars of numpy and torch, which other people's code may note, to numbers, all else to text."""
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
