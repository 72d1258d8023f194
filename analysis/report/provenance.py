"""Read what the records of a table say beyond its columns: definitions of grams, versions, commits, commands."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.errors import LoraScalingError
from lora_scaling.records import find_records, read_record
from lora_scaling.text import printable

MOST = 500


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Distinct values with the number of records of each, most common first; `read` of `found` records were read."""

    read: int
    found: int
    definitions: tuple[tuple[str, int], ...]
    attributions: tuple[tuple[str, int], ...]
    versions: tuple[tuple[str, int], ...]
    commits: tuple[tuple[str, int], ...]
    commands: tuple[tuple[str, int], ...]
    devices: tuple[tuple[str, int], ...]


def provenance_of(sources: Sequence[str]) -> Provenance:
    """Read the records in the folders among `sources`, at most `MOST`; tables have none."""
    folders = [source for source in sources if Path(source).is_dir()]
    paths = find_records(folders) if folders else []
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("definitions", "attributions", "versions", "commits", "commands", "devices")
    }
    read = 0
    for path in paths[:MOST]:
        try:
            record = read_record(path)
        except LoraScalingError:
            continue  # the table has already named it
        read += 1
        for name, value in _facts(record).items():
            if value:
                counts[name][printable(value)] += 1
    return Provenance(
        read=read, found=len(paths), **{name: tuple(counter.most_common(8)) for name, counter in counts.items()}
    )


def _facts(record: Mapping[str, Any]) -> dict[str, str | None]:
    emissions = record.get("emissions") or {}
    origin = record.get("provenance") or {}
    packages = {name: version for name, version in (origin.get("packages") or {}).items() if version}
    commit = origin.get("commit")
    device = record.get("device") or {}
    return {
        "definitions": emissions.get("definition"),
        "attributions": emissions.get("attribution"),
        "versions": ", ".join(f"{name} {version}" for name, version in packages.items()) or None,
        "commits": f"{commit}{' with changes' if origin.get('dirty') else ''}" if commit else None,
        "commands": " ".join(origin.get("command") or []) or None,
        "devices": f"{device['name']} on {record.get('host')}" if device.get("name") else None,
    }
