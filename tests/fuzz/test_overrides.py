"""Whatever words are typed, an estimate gives possible numbers or one sentence."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_scaling.commands.estimate import main
from lora_scaling.config.compose import setting_names
from tests.support.fuzzing import TEXTS, UNPRINTABLE, assert_possible, numbers_of, soon, tried

OWN = ["level", "compare", "at", "price.per_hour", "price.per_kwh", "fit"]  # the others measure or write files
COMMON = st.sampled_from(
    ["1", "2", "64", "0.5", "1000000", "true", "false", "null", "bf16", "lora", "full", "qlora", "ladder-1m", "hub",
     "llama-2-70b", "file", "h100-sxm", "auto", "cpu", "method", "gpus", "zones", "none", "DK1", "[q_proj]", "fsdp"]
)  # fmt: skip


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """Up to three words, most of the form NAME=VALUE with names and values that exist."""
    names = st.sampled_from([*setting_names(), *OWN, "experiment", "sweeps"]).filter(
        lambda n: n not in ("page", "plot", "pilot")
    )
    made = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(names) if draw(st.integers(0, 19)) else draw(TEXTS)
        prefix = draw(st.sampled_from(["", "", "", "", "", "", "", "", "+", "~", "++"]))
        value = draw(COMMON | TEXTS | st.integers(-3, 10**20).map(str) | st.floats().map(str))
        made.append(f"{prefix}{name}={value}" if draw(st.integers(0, 19)) else draw(TEXTS))
    return made


def test_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    answered = 0

    @tried(12)
    @example(given_words=["samples=64", "compare=method"])
    @given(given_words=words())
    def check(given_words: list[str]) -> None:
        nonlocal answered
        if any(word.startswith("-") for word in given_words):
            return
        out, err = io.StringIO(), io.StringIO()
        with soon(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["hardware=t4", *given_words, "--json"])
        said = err.getvalue()
        assert status in (0, 2), said
        assert not UNPRINTABLE.search(out.getvalue() + said)
        if status == 2:
            assert said.startswith("lora-scaling: ")
            assert said.count("\n") == 1
        if out.getvalue():
            document = json.loads(out.getvalue(), parse_constant=pytest.fail)
            for found in document.get("rows") or [document]:
                for name in ("time_s", "energy_kwh", "emissions_g", "peak_memory_gb", "cost", "work", "parts"):
                    assert_possible(*numbers_of(found[name]))
                answered += 1

    check()
    assert answered
