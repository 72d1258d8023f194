"""Tables in pages, notebooks and Markdown, names over several rows, several sheets, and text that is no table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.cli import main
from analysis.tables.table import RunTable, load_runs
from lora_scaling.errors import LoraScalingError

N = np.repeat([500, 1000, 2000, 4000], 3)
KWH = (0.03 + 1e-4 * N) * (1 + 0.001 * np.tile([0, 1, 2], 4))
RUNS = pd.DataFrame({"samples": N, "epochs": 1, "energy_kwh": KWH})
LINES = [f"{n} | 1 | {kwh!r}" for n, kwh in zip(N, KWH.tolist(), strict=True)]
PAGE = (
    "<html><table><tr><td>menu<td>here</tr></table><h1>Runs</h1>" + RUNS.to_html() + "<script>alert(1)</script></html>"
)


def are_the_runs(table: RunTable, rel: float = 1e-6) -> None:
    assert table.frame["samples"].tolist() == N.tolist()
    assert table.frame["energy_kwh"].to_numpy() == pytest.approx(KWH, rel=rel)


def notebook(*pages: str) -> str:
    outputs = [{"output_type": "execute_result", "data": {"text/html": [page], "text/plain": ["…"]}} for page in pages]
    return json.dumps({"cells": [{"cell_type": "code", "source": ["df"], "outputs": outputs}], "nbformat": 4})


@pytest.mark.parametrize(
    "text",
    [
        "# Runs\n\nHow | it was.\n\n| samples | epochs | energy (kWh) |\n|--:|:--|---|\n"
        + "\n".join(f"| {line} |" for line in LINES) + "\n\nEnd.\n",
        "| samples | epochs | **energy (kWh)** |\n|---|---|---|\n"
        + "\n".join(f"| {line.replace('| 1 |', '| 1 | **')}** |" for line in LINES),
        "+---+---+---+\n| samples | epochs | energy_kwh |\n+===+===+===+\n"
        + "\n+---+---+---+\n".join(f"| {line} |" for line in LINES) + "\n+---+---+---+\n",
        " samples | epochs | energy_kwh\n---------+--------+-----------\n" + "\n".join(LINES) + "\n(12 rows)\n",
        PAGE,
        notebook(PAGE, "<p>no table</p>"),
        RUNS.to_string(),
        "LoRA runs, November; in kWh\n\nsamples;epochs;energy_kwh\n" + "\n".join(LINES).replace(" | ", ";"),
        "samples,epochs,energy\n,-,(Wh)\n"
        + "\n".join(f"{n},1,{1e3 * kwh!r}" for n, kwh in zip(N, KWH.tolist(), strict=True)),
        json.dumps([{"samples": int(n), "epochs": 1, "energy": {"value": 1e3 * kwh, "unit": "Wh"}}
                    for n, kwh in zip(N, KWH.tolist(), strict=True)]),
        json.dumps([{"samples": n, "epochs": 1, "energy_kwh": KWH[n == N].tolist()} for n in (500, 1000, 2000, 4000)]),
    ],
    ids=["markdown", "bold", "grid", "psql", "page", "notebook", "printed", "title", "units", "value-unit", "lists"],
)  # fmt: skip
def test_a_table_in_a_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.txt"
    path.write_text(text, encoding="utf-8")
    table = load_runs(path)
    are_the_runs(table)
    assert not table.excluded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html><p>nothing</p></html>", "a web page or XML, not a table"),
        ("<table><tr><td>a<td>b</tr><tr><td>1<td>2</tr></table>", "a page with no table of runs"),
        (notebook(PAGE, PAGE), "a notebook with 2 tables of runs"),
        (notebook(), "a notebook with no table of runs"),
        ("runs:\n  - samples: 5\n    epochs: 1\n", "YAML, which is not read"),
        ("---\nlicense: mit\nco2_eq_emissions:\n  emissions: 8\n---\n# A model\n", "YAML, which is not read"),
        ("@relation runs\n@data\n1,2\n", "ARFF"),
        ("# HELP joules x\n# TYPE joules counter\njoules 12\n", "Prometheus"),
        ("\\begin{tabular}{rr}\nsamples & epochs \\\\\n1 & 2\n", "a LaTeX table"),
        ("[run]\nsamples = 5\nepochs = 1\n", "TOML or INI"),
        ("===  ===\nsamples  epochs\n===  ===\n1  2\n", "reStructuredText"),
        ("samples,epochs,energy_kwh\n,,Wh\n1,1,1\n2,1,2\n", "its unit is kwh by its name and Wh by the row below"),
        ("Wall time,Step,Value\n1.7e9,1,2.5\n1.7e9,2,2.4\n1.7e9,3,2.3\n", "if its rows are readings over time"),
    ],
)
def test_a_text_without_a_table_of_runs_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LoraScalingError, match=says):
        load_runs(path)


Sheet = list[list[object]]


def book(path: Path, *sheets: tuple[str, Sheet], merged: str = "") -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets:
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
        if merged:
            sheet.merge_cells(merged)
    workbook.save(path)
    return path


def test_names_of_groups_in_merged_cells(tmp_path: Path) -> None:
    rows: Sheet = [["Work", None, "Energy (Wh)", None, None], ["samples", "epochs", "run 1", "run 2", "run 3"]]
    rows += [[int(n), 1, *(1e3 * KWH[n == N]).tolist()] for n in dict.fromkeys(N.tolist())]
    are_the_runs(load_runs(book(tmp_path / "runs.xlsx", ("a", rows), merged="C1:E1")))


def rows_of(factor: float = 1.0) -> Sheet:
    cells: Sheet = [["samples", "epochs", "energy_kwh"]]
    return cells + [[int(n), 1, factor * kwh] for n, kwh in zip(N, KWH.tolist(), strict=True)]


def test_the_sheet_with_the_runs_and_sheets_that_are_alike(tmp_path: Path) -> None:
    notes: Sheet = [["Our runs"], ["of November"], ["2026"]]
    one = load_runs(book(tmp_path / "one.xlsx", ("README", notes), ("data", [*rows_of(), ["Total", None, 3.5]])))
    are_the_runs(one)
    assert "Read the sheet `data`; not `README`." in {warning.message for warning in one.warnings}
    both = load_runs(book(tmp_path / "two.xlsx", ("lora", rows_of()), ("full", rows_of(1.6)), ("notes", notes)))
    assert len(both.frame) == 24
    assert both.separating == ("sheet",)  # no verdict stands until the user says what the sheets are
    named: Callable[[str], bool] = lambda text: any(text in warning.message for warning in both.warnings)  # noqa: E731
    assert named("Read the sheets `lora`, `full`, which have the same columns")
    assert named("not `notes`")


def test_what_this_program_answers_is_no_table_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    rows = [f"{n},1,{n / 1000 * (1 + 0.001 * turn)}" for n in (64, 128, 256, 512) for turn in range(2)]
    table.write_text("\n".join(["samples,epochs,energy_kwh", *rows]))
    assert main(["fit", str(table), "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["claims", str(table), "--json"]) == 0
    (tmp_path / "claims.json").write_text(capsys.readouterr().out)
    for name, what in (("fit.json", "a fit"), ("claims.json", "an answer")):
        assert main(["claims", str(tmp_path / name)]) == 2
        told = f"lora-scaling: {name}: {what} of this program, not runs; name the folder or table of runs"
        assert capsys.readouterr().err.strip() == told
