"""Load the constants of the estimate from `priors.json`, which the estimator page reads too."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PRIORS_PATH = Path(__file__).with_name("priors.json")


@dataclass(frozen=True, kw_only=True)
class Priors:
    """Values, spreads (standard deviation of the logarithm), and links between devices (GB/s, one direction)."""

    values: Mapping[str, float]
    log_sd: Mapping[str, float]
    link_gb_s: Mapping[str, float]

    def link(self, hardware: str) -> float:
        """Return GB/s between devices of this name, or the PCIe value if it is not listed."""
        return self.link_gb_s.get(hardware, self.link_gb_s["default"])


@functools.cache
def load_priors() -> Priors:
    parsed = json.loads(PRIORS_PATH.read_text(encoding="utf-8"))
    constants = parsed["constants"]
    return Priors(
        values={name: float(entry["value"]) for name, entry in constants.items()},
        log_sd={name: float(entry["log_sd"]) for name, entry in constants.items()},
        link_gb_s=parsed["link_gb_s"],
    )
