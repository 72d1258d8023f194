"""Write model cards as the Hugging Face hub reads them, with its block on emissions (`co2_eq_emissions`).

https://huggingface.co/docs/hub/model-cards-co2
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeGuard

from lora_scaling.records.files import write_text
from lora_scaling.records.row import record_to_row
from lora_scaling.records.sources import source_kind
from lora_scaling.records.timeline import COMPONENTS
from lora_scaling.settings import SETTINGS, value_at
from lora_scaling.text import ENERGY, MASS, printable

CARD_NAME = "README.md"
SAVED_FOLDERS = ("adapter", "model")  # beside the record, what a run with save_adapter=true leaves

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def emissions_lines(
    *, grams: float | None, source: str, hardware: str | None, location: str | None = None
) -> list[str]:
    """Return the YAML lines of the hub's block on emissions; what is unknown is left out."""
    return [
        "co2_eq_emissions:",
        *([f"  emissions: {grams:.6g}"] if grams is not None else []),
        f"  source: {quoted(source)}",
        "  training_type: fine-tuning",
        *([f"  geographical_location: {quoted(location)}"] if location else []),
        *([f"  hardware_used: {quoted(hardware)}"] if hardware else []),
    ]


def how_obtained(kinds: Collection[str]) -> str:
    """Say how an energy was obtained, given the kinds of its sources (`records.sources`)."""
    return {frozenset({"measured"}): "measured", frozenset({"modelled"}): "modelled, not metered"}.get(
        frozenset(kinds) - {"none"}, "partly measured and partly modelled, or of unknown source"
    )


def quoted(text: str) -> str:
    """Return a scalar of YAML; a string of JSON is one."""
    return json.dumps(printable(text), ensure_ascii=False)


def write_card(path: Path, record: Mapping[str, Any]) -> bool:
    """Write the card of what a run saved beside its record at `path`, and return whether it saved anything.

    Raises:
        UnwritableError: the folder cannot be written or the disk is full.
    """
    folder = value_at(record, "saved.folder")
    if folder not in SAVED_FOLDERS or not (path.parent / folder).is_dir() or (path.parent / folder).is_symlink():
        return False
    write_text(path.parent / folder / CARD_NAME, adapter_card(record))
    return True


def adapter_card(record: Mapping[str, Any]) -> str:
    """Return the card of the adapter, or of the whole model, that a finished run saved."""
    row = record_to_row(record)
    adapted = row["method"] != "full"
    base = value_at(record, "model.id")
    data = value_at(record, "data.path") if value_at(record, "data.kind") == "hub" else None
    zone = value_at(record, "emissions.zone")
    head = [
        f"library_name: {'peft' if adapted else 'transformers'}",
        "pipeline_tag: text-generation",
        *([f"base_model: {quoted(base)}"] if _is_published(base) and row["weights"] != "random" else []),
        *([f"datasets: [{quoted(data)}]"] if _is_published(data) else []),
        f"tags: [lora-scaling, {'lora' if adapted else 'full-fine-tuning'}]",
        *emissions_lines(
            grams=row["emissions_g"],
            source="lora-scaling" if row["emissions_g"] is None else f"lora-scaling, {row['intensity_source']}",
            hardware=_hardware(row),
            location=zone if isinstance(zone, str) and zone != "WORLD" else None,
        ),
    ]
    name = _plain(row["model"] or "a model")
    what = f"{'An adapter for' if adapted else 'A fine-tune of'} {name}, trained on {_count(row)}."
    lines = ["---", *head, "---", "", f"# {name}, {_plain(row['method'])}", "", what, ""]
    lines += [*_weights(record), *_footprint(record, row), "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {setting} | {_plain(value)} |" for setting, value in _settings(record)]
    return "\n".join([*lines, ""])


def _is_published(name: Any) -> TypeGuard[str]:
    """Return whether this is a name on the hub. A local path is not, and stays out of what may be published."""
    return isinstance(name, str) and _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _hardware(row: Mapping[str, Any]) -> str | None:
    if not row["hardware"]:
        return None
    count = row["gpu_count"] or 1
    return f"{count:g} × {row['hardware']}" if count > 1 else str(row["hardware"])


def _count(row: Mapping[str, Any]) -> str:
    samples = row["samples_seen"]
    data = _plain(row["data"] or "unnamed data")
    return f"{data} ({samples:,.0f} samples shown)" if isinstance(samples, (int, float)) else data


def _weights(record: Mapping[str, Any]) -> list[str]:
    if value_at(record, "model.weights") != "random":
        return []
    seed = value_at(record, "config.seed")
    return [f"The base model has random weights (seed {_plain(seed)}): this is of use with these weights only.", ""]


def _footprint(record: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Footprint", "")
    kinds = {source_kind(row[f"energy_source_{name}"]) for name in COMPONENTS}
    if row["energy_kwh"] is None:
        yield "The energy of the training is unknown."
    else:
        yield f"The run used {ENERGY.show(row['energy_kwh'])}, which is {how_obtained(kinds)}."
    if row["emissions_g"] is None:
        yield "Its emissions are unknown."
    else:
        source, status = _plain(row["intensity_source"]), _plain(row["intensity_status"])
        ratio = f"{row['intensity_g_per_kwh']:.4g} g/kWh" if row["intensity_g_per_kwh"] else "intensity unknown"
        yield f"It caused {MASS.show(row['emissions_g'])} of CO2e ({ratio}, {source}, {status})."
    yield "Making of the hardware and earlier runs are not counted."
    yield ""
    if row["eval_loss_before"] is not None and row["eval_loss_after"] is not None:
        yield f"Loss on held-out samples: {row['eval_loss_before']:.4g} before, {row['eval_loss_after']:.4g} after."
        yield ""


def _settings(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings that make the run, with the values that it really had."""
    full = value_at(record, "config.method.name") == "full"
    for setting in SETTINGS:
        if setting.changes == "nothing" or (full and setting.field == "lora"):
            continue
        value = value_at(record, setting.recorded) if setting.recorded else None
        value = value_at(record, f"config.{setting.name}") if value is None else value
        if isinstance(value, Mapping):
            value = value.get("name")
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value is not None:
            yield (
                setting.name,
                PurePath(value).name if isinstance(value, str) and value.startswith(("/", "~", ".")) else value,
            )


def _plain(value: Any) -> str:
    """Return a value as text in which Markdown sees neither HTML, nor a link, nor the end of a cell.

    Of a path, only the last part is shown: a card is made to be published.
    """
    text = str(value).lower() if isinstance(value, bool) else printable(str(value))
    if text.startswith(("/", "~", "./", "../")):
        text = PurePath(text).name
    return re.sub(r"([\\`*_\[\]<|])", r"\\\1", text) if not isinstance(value, (int, float)) else text
