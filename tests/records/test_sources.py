"""One word for each source of energy, wherever it is asked."""

import numpy as np
import pandas as pd
import pytest

from analysis.claims.decide import decide
from analysis.claims.verdicts import Options
from analysis.report.findings import Findings
from analysis.report.provenance import provenance_of
from analysis.report.sections import basis, sources_section
from analysis.tables.table import table_from_frame
from lora_scaling.records.sources import SOURCES, source_kind

NAMES = {
    "nvml_counter": "measured",
    "RAPL": "measured",
    "nvml_counter+nvml_power": "measured",
    "none+rapl": "measured",
    "load_model": "modelled",
    "constant": "modelled",
    "tdp+cpu_load": "modelled",
    "wall_meter": "unknown",
    "rapl+wall_meter": "unknown",
    "rapl+load_model": "unknown",  # nobody knows how much of it was measured
    "unknown": "unknown",
    "": "unknown",
    "none": "none",
    "none+none": "none",
}
WORDS = {
    "measured": "All of this energy was measured.",
    "modelled": "None of this energy was measured",
    "unknown": "does not say whether this energy was measured or modelled",
}


def found_for(source: str) -> Findings:
    """The findings on 15 runs of which all energy is the processor's, from this source."""
    rng = np.random.default_rng(1)
    samples = np.repeat([64, 128, 256, 512, 1024], 3)
    energy = (1e-3 + 2e-5 * samples) * np.exp(0.01 * rng.standard_normal(len(samples)))
    frame = pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(len(samples))], "samples": samples, "epochs": 1, "energy_kwh": energy,
            "energy_cpu_kwh": energy, "energy_source_cpu": source,
        }
    )  # fmt: skip
    table = table_from_frame(frame)
    return Findings(table=table, claims=decide(table, Options()), provenance=provenance_of(table.sources))


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_a_source_is_classified_by_its_name(name: str, kind: str) -> None:
    assert source_kind(name) == kind


def test_a_missing_source_is_unknown() -> None:
    assert source_kind(None) == "unknown"


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in NAMES.items() if kind != "none"])
def test_claims_and_the_report_agree_on_a_source(name: str, kind: str) -> None:
    found = found_for(name)
    kinds = [warning.kind for warning in found.claims.warnings]
    assert ("modelled_energy" in kinds) == (kind == "modelled")
    assert (found.claims.response.measured_noun == "CPU") == (kind == "measured")
    assert WORDS[kind] in basis(found).sentence
    assert f"<td>{kind}</td>" in sources_section(found).html


def test_energy_without_a_source_is_not_called_modelled_with_the_rest() -> None:
    """A GPU's energy of unknown source beside a modelled processor's: the table does not say it was all modelled."""
    frame = found_for("load_model").table.frame
    frame = frame.assign(energy_gpu_kwh=0.5 * frame["energy_kwh"], energy_cpu_kwh=0.5 * frame["energy_kwh"])
    report = decide(table_from_frame(frame), Options())
    assert "modelled_energy" not in [warning.kind for warning in report.warnings]


@pytest.mark.parametrize("name", SOURCES)
def test_every_bound_is_of_a_source_that_somebody_looked_at(name: str) -> None:
    bound = SOURCES[name].relative_bound
    assert bound is None or 0 < bound < 1
    assert bound is None or SOURCES[name].kind in ("measured", "modelled")
