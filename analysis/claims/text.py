"""The claims for a person at a terminal: verdict first, then why, then what would decide."""

import textwrap
from collections.abc import Sequence
from typing import Any

from lora_scaling.terminal import prose_width, styled
from lora_scaling.text import ENERGY

STYLES = {"supported": "bold green", "refuted": "bold red", "undecided": "bold yellow"}


def render(document: dict[str, Any], sources: Sequence[str]) -> str:
    """Render the document of `claims --json` as the text of `python -m analysis claims`."""
    lines = [
        f"{document['runs_used']} runs from {', '.join(sources)}; {len(document['runs_excluded'])} left out; "
        f"margin {100 * document['margin']:g} %, level {100 * document['level']:g} %.",
        "",
    ]
    for claim in document["claims"]:
        verdict = styled(f"{claim['verdict'].upper():<10}", STYLES[claim["verdict"]])
        lines += [f"{verdict} {claim['title']}", _wrapped(claim["reason"])]
        needs = claim["needs"]
        if needs is not None:
            cost = "" if needs.energy_kwh is None else f" About {ENERGY.show(needs.energy_kwh)}."
            lines += [_wrapped(f"What would decide it: {needs.message}{cost}")]
            lines += [f"             {needs.command}"] if needs.command else []
        lines.append("")
    lines += _listed("Warnings", [f"[{w['kind']}] {w['message']}" for w in document["warnings"]])
    lines += _listed("Left out", [f"{e['run_id']}: {e['reason']}" for e in document["runs_excluded"]])
    return "\n".join(lines).rstrip()


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, prose_width(), initial_indent=" " * 11, subsequent_indent=" " * 11,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _listed(title: str, items: list[str], shown: int = 12) -> list[str]:
    if not items:
        return []
    more = [f"  … and {len(items) - shown} more (see --json)"] if len(items) > shown else []
    return [f"{title}:", *(f"  {item}" for item in items[:shown]), *more, ""]
