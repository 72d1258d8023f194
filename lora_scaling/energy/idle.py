"""Measure the power of the idle machine, so that energy above idle can be reported as well as the total."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from lora_scaling.energy.measurement import IdleBaseline
from lora_scaling.energy.meter import EnergyMeter
from lora_scaling.errors import UserError
from lora_scaling.records import read_text, write_text


def measure_idle(meter: EnergyMeter, seconds: float) -> IdleBaseline:
    """Wait `seconds` with the sensors on, and return mean watts per component. Call it with no model loaded."""
    recording = meter.recording()
    with recording.phase("idle"):
        time.sleep(seconds)
    account = recording.close()
    phase = account.phases[0]
    watts: dict[str, float | None] = {
        name: None if part.joules is None else part.joules / phase.seconds for name, part in phase.components.items()
    }
    known = [w for w in watts.values() if w is not None]
    reason = None if known else "no component could be measured"
    if account.exclusive is False:
        reason = "other processes were busy: " + "; ".join(
            w["message"] for w in account.warnings if w["kind"] in ("shared_gpu", "cpu_load")
        )
    return IdleBaseline(
        power_w=sum(known) if known else None,
        components_w=watts,
        seconds=phase.seconds,
        measured_at=phase.started_at,
        reason=reason,
    )


def idle_baseline(meter: EnergyMeter, seconds: float, cache_dir: Path | str) -> IdleBaseline | None:
    """Return the meter's baseline, or that of this host, these GPUs and this day, measured if it is not cached.

    It becomes the meter's baseline, which recordings use, and stays so for the process, because once a model is loaded
    nothing is idle any more. None if metering is off or `seconds` is 0. A baseline measured next to busy processes is
    not cached. If the cache cannot be read or written, the baseline is only measured again.
    """
    if not meter.settings.enabled or seconds <= 0:
        return None
    if meter.idle is not None:
        return meter.idle
    path = Path(cache_dir) / _cache_name(meter)
    baseline = _load(path)
    if baseline is None:
        baseline = measure_idle(meter, seconds)
        if baseline.reason is None:
            _store(path, baseline)
    meter.idle = baseline
    return baseline


def _cache_name(meter: EnergyMeter) -> str:
    devices = ",".join([*meter.settings.components, *(gpu.uuid or str(gpu.index) for gpu in meter.gpus)])
    digest = hashlib.sha256(devices.encode()).hexdigest()[:8]
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())
    return f"idle-{host}-{datetime.now(UTC).date().isoformat()}-{digest}.json"


def _load(path: Path) -> IdleBaseline | None:
    try:
        stored = json.loads(read_text(path))
        watts = [stored["power_w"], *stored["components_w"].values()]
        if not all(w is None or 0 <= w < math.inf for w in watts):
            return None
        return IdleBaseline(**{**stored, "measured_at": datetime.fromisoformat(stored["measured_at"])})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _store(path: Path, baseline: IdleBaseline) -> None:
    with contextlib.suppress(UserError):
        write_text(path, json.dumps(baseline.to_dict(), indent=2))
