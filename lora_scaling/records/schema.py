"""Define the types of a run record, and check that a file conforms to them.

A record is first written when a run starts, as `interrupted`. A process that is killed leaves this state, and never a
record that looks finished. Sections of work that never began are empty, and unknown values are None.
"""

import contextlib
import functools
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
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
# Fields, of whatever section, that are amounts.
_NOT_NEGATIVE = frozenset(
    ("joules", "uncertainty_joules", "measured_joules", "seconds", "power_w", "grams", "energy_kwh",
     "intensity_g_per_kwh", "pue", "total_s", "peak_memory_gb", "mfu",
     "samples_seen", "tokens_seen", "tokens_padded", "tokens_truncated",
     "tokens_trained", "steps", "params", "trainable_params", "flops", "model_flops", "layers", "hidden_size",
     "world_size", "revision")
)  # fmt: skip


class Component(TypedDict, total=False):
    """Energy of one component; None, with the reason, if it is unknown."""

    joules: float | None
    source: str
    uncertainty_joules: float | None
    reason: str | None


class PhaseSection(TypedDict, total=False):
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

    phases: list[PhaseSection]
    joules: float | None
    complete: bool
    components: dict[str, Component]
    uncertainty_joules: float | None
    idle: Idle | None
    above_idle_joules: float | None
    conditions: Conditions
    timeline: str | None


class Warned(TypedDict):
    """A warning about a run."""

    kind: str
    message: str


class EmissionsSection(TypedDict, total=False):
    """The last computation of grams: what `EmissionsRevision.to_dict` writes."""

    revision: Required[int]
    grams: Required[float | None]
    energy_kwh: Required[float | None]
    intensity_g_per_kwh: Required[float | None]
    pue: Required[float]
    status: Required[str]
    provider: Required[str]
    zone: Required[str | None]
    definition: Required[str]
    coverage: Required[dict[str, float]]
    interval: Required[list[str] | None]
    attribution: Required[str | None]
    static_year: Required[int | None]
    reason: Required[str | None]
    warnings: Required[list[Warned]]
    settings: dict[str, Any]


class DeviceSection(TypedDict, total=False):
    """The device of the work."""

    kind: str | None
    name: str | None
    gpu_count: int | None


class Model(TypedDict, total=False):
    """The model, as it was loaded."""

    name: str | None
    weights: str | None
    params: float | None
    trainable_params: float | None
    layers: int | None
    hidden_size: int | None


class Data(TypedDict, total=False):
    """The data set, as it was read."""

    name: str | None


class ProvenanceSection(TypedDict, total=False):
    """What is needed to repeat a run."""

    packages: dict[str, str | None]
    python: str
    platform: str
    commit: str | None
    dirty: bool | None
    command: list[str]
    slurm: dict[str, str | None] | None
    warmup_run: dict[str, Any] | None


class SlurmEnergy(TypedDict, total=False):
    """What Slurm itself counted on the nodes of the run's job, for comparison: it is in no total."""

    joules: float | None
    reason: str | None
    source: str
    covers: str
    of: str
    step: str
    plugin: str | None
    measured_joules: float | None


class WorkSection(TypedDict, total=False):
    """What was computed, in samples, tokens, steps and FLOPs."""

    samples_seen: float | None
    tokens_seen: float | None
    tokens_padded: float | None
    tokens_truncated: float | None
    tokens_trained: float | None
    steps: float | None
    trainable_params: float | None
    flops: float | None
    model_flops: float | None


class TrainingSection(TypedDict, total=False):
    """How it was computed, and what was learned."""

    precision: str | None
    pure_bf16: bool | None
    attn_implementation: str | None
    gradient_checkpointing: bool | None
    skipped_steps: int | None
    peak_allocated_gb: float | None
    train_loss: float | None
    eval_loss_before: float | None
    eval_loss_after: float | None
    eval_accuracy_before: float | None
    eval_accuracy_after: float | None
    score_before: float | None
    score_after: float | None


class SavedSection(TypedDict, total=False):
    """What was kept of the training: a folder beside the record, one of `model_card.SAVED_FOLDERS`."""

    folder: str
    bytes: float | None


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
    provenance: ProvenanceSection
    device: DeviceSection
    model: Model
    data: Data
    work: WorkSection
    training: TrainingSection
    setup_reused: list[str]
    saved: SavedSection | None
    energy: Energy | None
    slurm_energy: SlurmEnergy | None
    emissions: EmissionsSection | None
    emissions_history: list[EmissionsSection]
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
        "provenance": typing.cast(ProvenanceSection, dict(provenance)),
        "device": {},
        "model": {},
        "data": {},
        "work": {},
        "training": {},
        "setup_reused": [],
        "saved": None,
        "energy": None,
        "slurm_energy": None,
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
        record = json.loads(text, parse_float=_double, parse_int=_whole_number, parse_constant=_double)
    except _Mismatch as mismatch:
        raise RecordError(f"{where}: not a run record: {mismatch}") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RecordError(f"{where}: not a run record: not valid JSON ({why})") from None
    if not isinstance(record, dict) or "schema_version" not in record or "run_id" not in record:
        raise RecordError(f"{where}: not a run record: it has no schema_version and run_id")
    if record["schema_version"] != SCHEMA_VERSION:
        raise RecordError(
            f"{where}: got schema_version {_shown(record['schema_version'])}; this version reads {SCHEMA_VERSION}: "
            "update lora-scaling, or make the record again"
        )
    if record.get("status") not in STATUSES:
        raise RecordError(f"{where}: got status {_shown(record.get('status'))}; allowed: {', '.join(STATUSES)}")
    try:
        if "\\ud" in text or "\\uD" in text or text.count("[") + text.count("{") > _MANY:
            _check_nesting_and_text(record)
        _checker(RunRecord)(record)
        _check_times(record)
    except _Mismatch as mismatch:
        raise RecordError(f"{where}: not a run record: {mismatch}") from None
    return typing.cast(RunRecord, record)


class _Mismatch(Exception):
    """A value that a record cannot hold. `path` leads to it from the record, outermost last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path: list[str] = []

    def __str__(self) -> str:
        path = "".join(reversed(self.path)).removeprefix(".")
        return f"{path}: {self.args[0]}" if path else str(self.args[0])


def _double(text: str) -> float:
    """Read a number with a fraction or an exponent, or one of the words that are no JSON, such as NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise _Mismatch(_BEYOND)
    return value


def _whole_number(text: str) -> int:
    value = int(text)
    if not -_LARGEST <= value <= _LARGEST:
        raise _Mismatch(_BEYOND)
    return value


_BEYOND = "it holds a number beyond the range of a double, or NaN"
# Only records with escaped surrogates or many brackets are searched through: fewer brackets cannot nest too deeply.
_MANY = 250
_SURROGATE = re.compile("[\ud800-\udfff]")


def _check_nesting_and_text(record: Any) -> None:
    """Refuse text that is not Unicode, and nesting deeper than any record's."""
    level = [record]
    for _ in range(_DEEPEST):
        below = []
        for value in level:
            if isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
                raise _Mismatch("it holds text that is not Unicode (a lone surrogate)")
        if not below:
            return
        level = below
    raise _Mismatch(f"it is nested more than {_DEEPEST} levels deep")


@functools.cache
def _checker(hint: Any) -> Callable[[Any], None]:
    """Make the function that raises `_Mismatch` for a value that is not of the hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # with None alone
        hint = arguments[0]
        if hint not in _NOUNS:
            inner = _checker(hint)
            return lambda value: None if value is None else inner(value)
        nothing: tuple[type, ...] = (types.NoneType,)
    else:
        nothing = ()
    if typing.is_typeddict(hint):
        return _mapping_checker(
            {name: _checker(field) for name, field in typing.get_type_hints(hint).items()}, hint.__required_keys__
        )
    if origin is dict:
        return _items_checker(dict, dict.items, ".{}", arguments[1])
    if origin is list:
        return _items_checker(list, enumerate, "[{}]", arguments[0])
    allowed = (float, int, *nothing) if hint is float else (hint, *nothing)

    def check(value: Any) -> None:
        if type(value) not in allowed:
            raise _Mismatch(f"got {_shown(value)}; expected {_NOUNS[hint]}")

    return (lambda value: None) if hint is Any else check


_NOUNS: dict[Any, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def _mapping_checker(fields: Mapping[str, Callable[[Any], None]], required: frozenset[str]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _Mismatch(f"got {_shown(value)}; expected an object")
        for name, field in fields.items():
            if name in value:
                try:
                    field(value[name])
                    if name in _NOT_NEGATIVE and (value[name] or 0) < 0:
                        raise _Mismatch(f"got {_shown(value[name])}; expected 0 or more")
                except _Mismatch as mismatch:
                    mismatch.path.append(f".{name}")
                    raise
            elif name in required:
                mismatch = _Mismatch("missing")
                mismatch.path.append(f".{name}")
                raise mismatch

    return check


def _items_checker(kind: type, pairs: Callable[[Any], Iterable[Any]], place: str, hint: Any) -> Callable[[Any], None]:
    inner = _checker(hint)

    def check(value: Any) -> None:
        if type(value) is not kind:
            raise _Mismatch(f"got {_shown(value)}; expected {'a list' if kind is list else 'an object'}")
        if hint is Any:
            return
        for key, item in pairs(value):
            try:
                inner(item)
            except _Mismatch as mismatch:
                mismatch.path.append(place.format(key if kind is list else ascii(key)[1:-1][:_SHOWN]))
                raise

    return check


def _check_times(record: Mapping[str, Any]) -> None:
    for name in ("started_at", "finished_at"):
        text = record.get(name)
        if text is not None:
            try:
                datetime.fromisoformat(text)
            except ValueError:
                raise _Mismatch(f"{name}: got {_shown(text)}; expected a time in ISO 8601") from None


def _shown(value: Any) -> str:
    """Format a wrong value for a sentence: in ASCII, and never long."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value) if value is not None else "null"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
