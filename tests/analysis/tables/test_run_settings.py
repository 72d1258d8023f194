"""Settings that say what the runs of a table were: they fill what is unknown, and what follows is computed."""

import math
from pathlib import Path

import pandas as pd
import pytest

from analysis.cli import main
from analysis.tables.column_options import ColumnOptions
from analysis.tables.table import RunTable, table_from_frame
from lora_scaling.config import compose
from lora_scaling.errors import UserError
from lora_scaling.workload import Lengths

SETTINGS = ("model=llama-3.2-1b", "data.tokens_per_sample=200", "data.tokens_cv=0", "batch_size=4")


def load(frame: pd.DataFrame, *settings: str, **options: object) -> RunTable:
    return table_from_frame(frame, options=ColumnOptions(settings=settings, **options))  # type: ignore[arg-type]


@pytest.fixture
def bare() -> pd.DataFrame:
    return pd.DataFrame({"samples": [100, 200, 400], "epochs": 2, "energy_kwh": [0.1, 0.2, 0.4]})


def test_sizes_tokens_and_flops_follow_from_the_settings(bare: pd.DataFrame) -> None:
    """All samples have 200 tokens, so that nothing is padded; FLOPs are those of an estimate of the same run."""
    table = load(bare, *SETTINGS)
    assert list(table.frame["params"]) == [1_235_814_400] * 3
    assert list(table.frame["tokens_seen"]) == [40_000, 80_000, 160_000]
    assert list(table.frame["batch_size"]) == [4, 4, 4]
    run = compose(["model=llama-3.2-1b", "batch_size=4", "samples=200", "epochs=2"])
    assert table.frame["flops"][1] == pytest.approx(run.workload(Lengths.lognormal(200, 0)).flops.total)
    [said] = [warning.message for warning in table.warnings if warning.kind == "computed_columns"]
    assert "model=llama-3.2-1b data.tokens_per_sample=200" in said
    assert "`params`" in said


def test_what_the_table_knows_stays(bare: pd.DataFrame) -> None:
    table = load(bare.assign(flops=[1e12, math.nan, 4e12], batch_size=["4", "", "4"]), *SETTINGS)
    assert list(table.frame["flops"][[0, 2]]) == [1e12, 4e12]
    assert table.frame["flops"][1] > 1e13
    assert list(table.frame["batch_size"]) == [4, 4, 4]


def test_a_setting_that_contradicts_the_table_is_refused(bare: pd.DataFrame) -> None:
    with pytest.raises(
        UserError, match=r"^model: got llama-3.2-1b, and the table says 'llama-2-7b' in `model`; leave model="
    ):
        load(bare.assign(model=["", "llama-2-7b", "llama-2-7b"]), "model=llama-3.2-1b")
    with pytest.raises(UserError, match=r"^batch_size: got 4, and the table says '8'"):
        load(bare.assign(batch_size=8), "batch_size=4")


def test_samples_are_not_cut_at_a_length_that_nobody_gave(bare: pd.DataFrame) -> None:
    with pytest.raises(
        UserError, match=r"^max_seq_len: missing, and its default of 256 would cut samples of 900 tokens"
    ):
        load(bare, "model=llama-3.2-1b", "data.tokens_per_sample=900")
    told = load(bare, "model=llama-3.2-1b", "data.tokens_per_sample=900", "data.tokens_cv=0", "max_seq_len=1024")
    assert list(told.frame["tokens_seen"]) == [180_000, 360_000, 720_000]


def test_a_target_is_of_another_model_than_set_says_of_the_runs(bare: pd.DataFrame, tmp_path, capsys) -> None:
    """Without --set, nothing is known of another model; with it, sizes and tokens of both are."""
    path = tmp_path / "t.csv"
    pd.concat([bare] * 3).to_csv(path, index=False)
    words = ["extrapolate", str(path), "model=llama-3.1-8b", "samples=800"]
    assert main(words) == 2
    assert "--set model=NAME" in capsys.readouterr().err
    assert main([*words, "--set", "model=llama-3.2-1b", "--set", "data.tokens_per_sample=200"]) == 0
    out = capsys.readouterr().out
    assert "llama-3.1-8b (8.03 B parameters)" in out
    assert "Outside    flops per token: 6." in out


def test_settings_beside_runs_are_for_every_command_without_a_target(bare: pd.DataFrame, tmp_path, capsys) -> None:
    path = tmp_path / "t.csv"
    bare.to_csv(path, index=False)
    assert main(["export", str(path), "model=llama-3.2-1b", "--format", "csv"]) == 0
    assert "1235814400" in capsys.readouterr().out
    assert main(["claims", str(path), "modle=llama-3.2-1b"]) == 2
    assert "modle" in capsys.readouterr().err


def test_a_name_of_ones_own_is_said_to_be_a_presets(bare: pd.DataFrame, tmp_path: Path, capsys) -> None:
    """The message that asks for `model=` is answered by it; two names of one's own cannot both be that model."""
    frame = pd.concat([bare.assign(model="ours")] * 2)
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert main(["claims", str(tmp_path / "t.csv")]) == 0
    assert "called 'ours': choose one with `model=`" in " ".join(capsys.readouterr().out.split())
    assert main(["claims", str(tmp_path / "t.csv"), "model=llama-3.2-1b"]) == 0
    out = capsys.readouterr().out
    assert "choose one with" not in out
    assert "model=llama-3.2-1b" in out
    assert "ours is taken to be llama-3.2-1b" in " ".join(out.split())
    with pytest.raises(UserError, match=r"^model: got llama-3.2-1b, and the table says 'ours'"):
        load(pd.concat([frame, bare.assign(model="theirs")], ignore_index=True), "model=llama-3.2-1b")
    hub = load(bare.assign(model="meta-llama/Llama-3.2-1B"), "model=llama-3.2-1b")
    assert list(hub.frame["params"]) == [1_235_814_400] * 3
