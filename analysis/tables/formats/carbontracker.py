"""carbontracker's logs as runs: one log file is one run, its last "Actual consumption" the run's.

https://github.com/lfwa/carbontracker: energies are kWh and hold the data centre's PUE.
"""

import re
from pathlib import Path
from typing import Any

from ..parsing import RunWarning

KIND = "a log of carbontracker"
ACTUAL = re.compile(
    r"Actual consumption(?: for (?P<epochs>\d+) epoch\(s\))?:\s*Time:\s*(?P<time>[\d:.]+|\d+ days?, [\d:.]+)\s*"
    r"Energy:\s*(?P<kwh>[\d.eE+-]+)\s*kWh(?:\s*CO2eq:\s*(?P<grams>[\d.eE+-]+)\s*(?P<unit>k?g))?"
)
EPOCH = re.compile(
    r"Epoch \d+:.*?Duration:\s*(?P<time>[\d:.]+)(?P<power>(?:.*?Average power usage \(W\) for \w+: [^\n]*)*)", re.S
)
POWER = re.compile(r"Average power usage \(W\) for \w+: ([^\n]*)")
DEVICES = re.compile(r"(GPU|CPU) with device\(s\) ([^.\n]+?)\.?\s*(?:\n|$|(?=GPU|CPU))")
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.M)


def is_carbontracker(text: str) -> bool:
    """Whether a text is a log of carbontracker."""
    return "carbontracker" in text[:4096].lower()


def from_carbontracker(path: Path, text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the row of a log's run, or None and the reason that the log holds none."""
    row: dict[str, Any] = {"run_id": path.stem, "started_at": None, "hardware": None}
    if stamp := STAMP.search(text):
        row["started_at"] = stamp[1].replace(" ", "T")
    devices = {kind: name.strip() for kind, name in DEVICES.findall(text)}
    row["hardware"] = devices.get("GPU") or devices.get("CPU")
    found = list(ACTUAL.finditer(text))
    if not found:
        reason = "carbontracker's log without an actual consumption: the run was not finished, or this is its other log"
        return _from_epochs(row, text), reason
    last = found[-1]
    kwh = float(last["kwh"])
    row |= {"epochs": int(last["epochs"] or 1), "total_s": _seconds(last["time"]), "energy_kwh": kwh}
    if last["grams"]:
        grams = float(last["grams"]) * (1000 if last["unit"] == "kg" else 1)
        row |= {"emissions_g": grams, "intensity_g_per_kwh": grams / kwh if kwh > 0 else None}
    return row, ""


def _from_epochs(row: dict[str, Any], text: str) -> dict[str, Any] | None:
    """Sum the epochs of the log of standard output, which has power and duration and no PUE."""
    seconds, joules, epochs = 0.0, 0.0, 0
    for epoch in EPOCH.finditer(text):
        watts = [
            float(w) for cells in POWER.findall(epoch["power"]) for w in re.findall(r"\d+\.?\d*(?:e-?\d+)?", cells)
        ]
        if not watts:
            return None
        duration = _seconds(epoch["time"])
        seconds, joules, epochs = seconds + duration, joules + duration * sum(watts), epochs + 1
    return {**row, "epochs": epochs, "total_s": seconds, "energy_kwh": joules / 3.6e6} if epochs else None


def _seconds(text: str) -> float:
    """Read `1:02:03.4` or `2 days, 1:02:03`."""
    days, _, rest = text.rpartition(",")
    parts = [float(part) for part in rest.strip().split(":")]
    seconds = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    return seconds + (86400 * int(days.split()[0]) if days else 0)


def notes(recognised: int) -> tuple[RunWarning, ...]:
    """Say what the energies of carbontracker hold."""
    message = (
        f"{recognised} logs of carbontracker: an actual consumption holds the PUE that carbontracker assumes (about "
        "1.6), and its time is of whole seconds."
    )
    return (RunWarning(kind="pue", message=message),)
