"""What a step found: values, each with what is allowed, and what could not be looked at here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Check:
    """One value and whether it is as it should be; `passed` is None where it is only reported."""

    name: str
    value: Any
    allowed: str
    passed: bool | None


@dataclass
class Findings:
    """The outcome of one step."""

    checks: list[Check] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def holds(self, name: str, value: Any, allowed: str, passed: bool) -> None:
        self.checks.append(Check(name=name, value=value, allowed=allowed, passed=passed))

    def within(self, name: str, value: float | None, low: float, high: float) -> None:
        """Check that a value is known and lies between two others."""
        known = value is not None and math.isfinite(value)
        allowed = f"{low:g} to {high:g}"
        self.holds(name, value, allowed, known and value is not None and low <= value <= high)

    def reports(self, name: str, value: Any) -> None:
        self.checks.append(Check(name=name, value=value, allowed="reported only", passed=None))

    def skips(self, what: str) -> None:
        self.skipped.append(what)

    def to_dict(self) -> dict[str, Any]:
        return {
            "checks": [asdict(check) for check in self.checks],
            "skipped": self.skipped,
            "values": self.values,
        }
