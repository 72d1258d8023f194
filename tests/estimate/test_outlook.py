"""What a training will take, from its first steps: times that are known exactly."""

import json
import re
from types import SimpleNamespace

import pytest

from analysis.export.record_line import record_line
from lora_scaling.commands.estimate import main
from lora_scaling.config import compose
from lora_scaling.energy import MeteringSettings
from lora_scaling.estimate.outlook import Outlook
from lora_scaling.footprint import FootprintCallback, block
from lora_scaling.grid import static_intensity
from tests.support.paths import STUDY_RUNS


def after(steps, seconds_of):
    outlook, now = Outlook(), 0.0
    for step in range(1, steps + 1):
        now += seconds_of(step)
        outlook.note(step, now)
    return outlook


def test_a_slow_first_step_is_not_extrapolated():
    """Sixty seconds to compile, then a second a step: 159 s for a hundred steps, and not 100 times the first six."""
    outlook = after(6, lambda step: 60.0 if step == 1 else 1.0)
    whole = outlook.whole(100, watts=200.0)
    assert whole is not None
    assert whole.seconds.estimate == pytest.approx(159)
    assert whole.seconds.low < 159 < whole.seconds.high < 190
    assert whole.joules is not None
    assert whole.joules.estimate == pytest.approx(159 * 200)
    said = whole.sentence(100.0)
    assert said.startswith("the whole training: 2.65 min (")
    assert "8.83 Wh (" in said
    assert "0.883 g at 100 g/kWh" in said


def test_too_few_steps_or_seconds_predict_nothing():
    assert Outlook().whole(100) is None
    assert after(4, lambda _: 1.0).whole(100) is None
    assert after(50, lambda _: 0.01).whole(100) is None
    assert after(6, lambda _: 1.0).whole(100).joules is None  # type: ignore[union-attr]


def test_the_interval_holds_uneven_steps_and_narrows_to_what_was_spent():
    uneven = lambda step: 1.0 + 0.8 * (step % 3 == 0)  # noqa: E731
    total = sum(map(uneven, range(1, 1001)))
    widths = []
    for done in (10, 100, 500, 1000):
        whole = after(done, uneven).whole(1000)
        assert whole is not None
        assert whole.seconds.low <= total <= whole.seconds.high
        widths.append(whole.seconds.ratio)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 1


def test_a_trainer_says_twice_what_the_whole_will_take(monkeypatch, capsys, tmp_path):
    """Twenty seconds for the first of 200 steps, two for each other: 418 s, said after the sixth and the twentieth."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(block.time, "perf_counter", lambda: clock.now)
    options = {"runs_dir": tmp_path, "settings": MeteringSettings(enabled=False)}
    hooks = FootprintCallback("run", predict=True, zone="FR", **options)
    state = SimpleNamespace(global_step=0, max_steps=200, epoch=0, total_flos=0, log_history=[])
    state.num_input_tokens_seen, state.is_world_process_zero = 0, True
    batches = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    args = SimpleNamespace(world_size=1, num_train_epochs=1, seed=0, max_steps=200, **batches)
    hooks.on_train_begin(args, state, None)
    for step in range(1, 31):
        clock.now += 20.0 if step == 1 else 2.0
        state.global_step = step
        hooks.on_step_end(args, state, None)
    hooks.on_train_end(args, state, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if "the whole training" in line]
    assert len(lines) == 2
    assert all(line.startswith("lora-scaling: the whole training: 6.97 min (") for line in lines)
    assert all(static_intensity("FR").place in line for line in lines)


def test_a_record_is_exported_as_a_line_that_estimates_read(tmp_path, capsys):
    path = next(p for p in sorted(STUDY_RUNS.glob("linear/*-s512-e1-*/run.json"))
                if json.loads(p.read_text())["status"] == "ok")  # fmt: skip
    record = json.loads(path.read_text())
    assert record_line(record) is None  # nobody has the sheet of this processor
    record["device"] |= {"name": "NVIDIA L4", "gpu_count": 1, "kind": "cuda"}
    record["config"]["model"] |= {"name": "/home/someone/secret model", "id": "someone/secret"}
    line = record_line(record)
    assert line is not None
    assert not re.search(r"secret|someone|/home|host", json.dumps(line))
    config = compose(line["overrides"].split())
    assert (config.samples, config.lora.r, config.hardware.name) == (512, record["config"]["lora"]["r"], "l4")
    train = next(phase["seconds"] for phase in record["energy"]["phases"] if phase["name"] == "train")
    assert line["measured"]["train s"] == train
    assert main([*line["overrides"].split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["work"]["samples_seen"] == pytest.approx(512)
    assert tmp_path.exists()
