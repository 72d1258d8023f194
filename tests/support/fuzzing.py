"""How much the fuzz tries, what it puts where, and what every reader must keep to.

In CI a small, fixed set; `FUZZ=2000 python -m pytest tests/fuzz tests/grid/test_fuzz.py` tries as many of each kind.
"""

import copy
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

ASKED = os.environ.get("FUZZ")
LONGEST_S = 10.0
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example)
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def tried(in_ci: int) -> settings:
    """Hypothesis' settings: so many examples in CI, always the same ones; with FUZZ=N, N others.

    A failing example is shown as it was found: making it smaller would take minutes.
    """
    return settings(
        max_examples=int(ASKED or in_ci), derandomize=ASKED is None, database=None, deadline=None,
        suppress_health_check=SLOW, phases=(Phase.explicit, Phase.generate),
    )  # fmt: skip


NASTY = st.sampled_from(
    [
        *("", " ", "x", "null", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0", "1e308", "-0.0", "9" * 400, "1_0"),
        *("${oc.env:HOME}", "${", "$(touch x)", "`id`", "=1+1", "@x", "[red]x", "<script>alert(1)</script>", "a,b"),
        *("'", '"', "\x1b[2J", "\u202e", "\x00", "\ud800", "\ufeff", "y" * 500, "../../etc/passwd", "/dev/zero", "~"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-25T10:00:00Z", "٣", "[1,2]", "{a: 1}"),
        *("choice(1,2)", "range(1,9)"),
    ]
)
TEXTS = NASTY | st.text(max_size=8)
NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from([0, -1, 1, 10**400, 5e-324, 1e300, -1e300, 1e15, float("nan"), float("inf")]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> str:
    """The text of a JSON document in which some values are replaced or left out, or the text itself is hurt."""
    broken = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = broken
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 3)):
                place = inner
                continue
            if draw(st.integers(0, 5)):
                place[key] = draw(VALUES)
            else:
                del place[key]
            break
    text = json.dumps(broken)
    if draw(st.integers(0, 9)) == 0:
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 40))
        text = text[:at] + draw(TEXTS) + text[at + length :]
    return text


def write(path: Any, text: str) -> None:
    """Write text, lone surrogates included, as another program might."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@contextmanager
def soon() -> Iterator[None]:
    """The block ends within ten seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONGEST_S


def numbers_of(document: Any) -> Iterator[float]:
    """Every number of a JSON document."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list):
        for item in document:
            yield from numbers_of(item)
    elif isinstance(document, (int, float)) and not isinstance(document, bool):
        yield document


def assert_possible(*amounts: float | None) -> None:
    """Energies, times, grams: finite and not negative, or unknown."""
    for amount in amounts:
        assert amount is None or (math.isfinite(amount) and amount >= 0), amount


def assert_sentence(error: object) -> None:
    """One line that a terminal prints as it is, of a length that can be read."""
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1
    assert "Traceback" not in text
