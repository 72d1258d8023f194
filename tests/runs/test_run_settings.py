"""What a setting says is what a run does: each changes the training, the counts or the record as its name promises."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_scaling.config import RunConfig, compose
from lora_scaling.config.again import override_columns
from lora_scaling.errors import OutOfMemory, UserError
from lora_scaling.estimate.hardware import preset
from lora_scaling.records import record_to_row
from lora_scaling.runs.device_locks import devices_held
from lora_scaling.runs.run import _utilisation, idle_after
from lora_scaling.training.device import Device, choose_device, explain_out_of_memory, is_sticky, local_gpu
from tests.support.runs import Record

Make = Callable[..., Record]


@pytest.fixture(scope="module")
def plain(made: Make) -> Record:
    return made("study=plain-settings")


@pytest.mark.parametrize(
    "override",
    [
        "lora.alpha=64", "lora.dropout=0.5", "lora.target_modules=[q_proj]", "learning_rate=0.01", "weight_decay=0.5",
        "max_grad_norm=0.001", "lr_scheduler=linear", "lr_scheduler=cosine", "loss_on=all", "chat_template=false",
        "seed=1", "data.seed=1", "gradient_accumulation=2", "batch_size=8",
    ],
)  # fmt: skip
def test_a_training_setting_changes_the_training(override: str, plain: Record, made: Make) -> None:
    """Runs repeat to the last digit, so a setting that is lost on the way gives the very same loss."""
    record = made(override, "study=settings")
    assert record["status"] == "ok", record["error"]
    assert record["training"]["eval_loss_after"] != plain["training"]["eval_loss_after"]


def test_dora_trains_its_magnitudes_and_the_record_says_so(plain: Record, made: Make) -> None:
    """One more parameter per output of each adapted matrix; everything else is a run like the others."""
    record = made("lora.use_dora=true", "study=dora")
    assert record["status"] == "ok", record["error"]
    assert record["training"]["eval_loss_after"] != plain["training"]["eval_loss_after"]
    shape = compose(["model=ladder-1m"]).model.shape
    assert shape is not None
    outputs = shape.layers * sum(m.outputs for m in shape.matmuls())
    assert record["model"]["trainable_params"] == plain["model"]["trainable_params"] + outputs
    assert "parameter_count" not in [warning["kind"] for warning in record["warnings"]]
    assert [record_to_row(each)["use_dora"] for each in (record, plain)] == [True, False]
    words, without = (str(override_columns(each)["settings_override"]).split() for each in (record, plain))
    assert set(words) - set(without) == {"lora.use_dora=true"}


def test_what_is_cut_off_is_counted_and_nothing_else_is_lost(plain: Record, made: Make) -> None:
    cut = made("max_seq_len=16", "study=cut")["work"]
    assert cut["tokens_truncated"] > 0
    assert cut["tokens_seen"] + cut["tokens_truncated"] == plain["work"]["tokens_seen"]
    assert 0 < cut["tokens_trained"] < plain["work"]["tokens_trained"]
    twice = made("max_seq_len=16", "epochs=2", "study=cut")["work"]
    assert twice["tokens_truncated"] == 2 * cut["tokens_truncated"]


def test_layouts_pad_as_they_say(plain: Record, made: Make) -> None:
    fixed = made("padding=max_length", "max_seq_len=64", "study=layout")["work"]
    assert fixed["tokens_seen"] + fixed["tokens_padded"] == 24 * 64
    packed = made("packing=true", "max_seq_len=64", "study=layout")["work"]
    assert packed["tokens_seen"] == plain["work"]["tokens_seen"]
    assert packed["tokens_padded"] < plain["work"]["tokens_padded"]


def test_what_is_recomputed_is_work_and_no_use(plain: Record, made: Make) -> None:
    work = made("gradient_checkpointing=true", "study=recomputed")["work"]
    assert plain["work"]["model_flops"] == plain["work"]["flops"]
    assert work["flops"] > 1.3 * work["model_flops"]
    assert work["model_flops"] == pytest.approx(plain["work"]["flops"], rel=0.1)  # the first layer saves less then


def test_held_out_samples_are_as_many_as_asked_for(made: Make) -> None:
    assert made("eval_samples=6", "study=held-out")["data"]["held_out"] == 6
    none = made("eval_samples=0", "study=held-out")
    assert "eval_loss_after" not in none["training"]
    assert "eval" not in [phase["name"] for phase in none["energy"]["phases"]]


def test_a_device_that_was_shared_is_recorded_as_such(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the locks of devices are
    alone = made("study=alone", "exclusive_device=false")
    with devices_held(["cpu"], wait=False):
        shared = made("study=shared", "exclusive_device=false")
    assert "shared_device" not in [warning["kind"] for warning in alone["warnings"]]
    assert "shared_device" in [warning["kind"] for warning in shared["warnings"]]
    assert shared["exclusive"] is False


@pytest.mark.parametrize(("cores", "alone"), [(0.0, True), (2.0, False), (None, None)])
def test_a_record_says_whether_the_machine_was_ours_alone(
    made: Make, monkeypatch: pytest.MonkeyPatch, cores: float | None, alone: bool | None
) -> None:
    monkeypatch.setattr("lora_scaling.energy.host.other_load_cores", lambda start, end: cores)
    record = made(f"study=exclusive-{cores}")
    assert record["exclusive"] is alone
    assert ("cpu_load" in [warning["kind"] for warning in record["warnings"]]) is (alone is False)
    assert record_to_row(record)["exclusive"] is alone


@pytest.mark.slow
def test_idle_power_is_measured_before_and_after(
    tiny: Callable[..., RunConfig], made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_scaling.energy.host.other_load_cores", lambda start, end: 0.0)  # whatever else runs here
    overrides = ("study=idle-twice", "metering.idle_s=1.1", "metering.interval_s=0.4")
    made(*overrides)
    config = tiny(*overrides)
    sentence = idle_after(config)
    stored = json.loads((Path(config.runs_dir) / "idle-twice" / "idle.json").read_text(encoding="utf-8"))
    assert sentence is not None
    assert sentence.startswith(f"Idle power: {stored['before']['power_w']:.3g} W before, ")
    assert stored["after"]["power_w"] > 0
    assert idle_after(tiny("study=idle-twice")) is None  # not where no baseline is asked for


@pytest.mark.slow
def test_a_machine_that_is_busy_after_the_runs_is_not_called_idle(
    tiny: Callable[..., RunConfig], made: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("study=idle-busy", "metering.idle_s=1.1", "metering.interval_s=0.45")
    monkeypatch.setattr("lora_scaling.energy.host.other_load_cores", lambda start, end: 0.0)
    made(*overrides)
    config = tiny(*overrides)
    monkeypatch.setattr("lora_scaling.energy.host.other_load_cores", lambda start, end: 1.5)
    kept = Path(config.runs_dir) / "idle-busy" / "idle.json"
    kept.mkdir()  # as good as a full disk: what was finished stays so
    said = "Idle power not compared: after the runs, other processes were busy: Other processes kept 1.50 CPU cores"
    assert str(idle_after(config)).startswith(said)
    assert capsys.readouterr().err.startswith("lora-scaling: idle.json was not written: runs_dir: ")
    kept.rmdir()
    assert str(idle_after(config)).startswith(said)
    stored = json.loads(kept.read_text(encoding="utf-8"))
    assert (stored["before"]["reason"], stored["after"]["power_w"] > 0) == (None, True)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with GPUs whose driver reads CUDA_VISIBLE_DEVICES as it is first asked, and not again."""

    def with_gpus(visible: str | None, *, started: bool = False) -> None:
        count = len(visible.split(",")) if visible else 4
        monkeypatch.setattr("lora_scaling.training.device._shown", None)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: os.environ["READ_BY_DRIVER"])
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda emulated: True)
        monkeypatch.delenv("READ_BY_DRIVER", raising=False)

        def count_by_driver() -> int:
            if "READ_BY_DRIVER" not in os.environ:
                monkeypatch.setenv("READ_BY_DRIVER", os.environ.get("CUDA_VISIBLE_DEVICES") or "all")
            read = os.environ["READ_BY_DRIVER"]
            return 4 if read == "all" else len(read.split(","))

        monkeypatch.setattr("torch._C._cuda_getDeviceCount", count_by_driver, raising=False)
        monkeypatch.setattr("torch.cuda.is_available", lambda: count_by_driver() > 0)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")  # what a run leaves there is undone
        if not visible:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        if started:
            count_by_driver()

    return with_gpus


@pytest.mark.parametrize(
    ("visible", "wanted", "left"),
    [
        ("3,5", "cuda:1", "5"),
        ("3,5", "cuda", "3"),
        ("GPU-a,GPU-b", "cuda:1", "GPU-b"),
        ("7", "auto", "7"),
        (None, "auto", "0"),
        (None, "cuda:2", "2"),
    ],
)
def test_a_single_process_sees_one_gpu(gpus: Callable[..., None], visible: str | None, wanted: str, left: str) -> None:
    """With several, Trainer would split the batch over all of them; what the driver does not read has no effect."""
    gpus(visible)
    assert choose_device(wanted, "auto").name == left
    assert choose_device(wanted, "auto").name == left  # the next run of a sweep


def test_a_process_stays_on_its_gpu(gpus: Callable[..., None]) -> None:
    gpus(None)
    choose_device("cuda:1", "auto")
    with pytest.raises(UserError, match="device: got 'cuda:0'; this process has begun on cuda:1 and stays there"):
        choose_device("cuda:0", "auto")


def test_a_gpu_that_is_not_there_is_refused(gpus: Callable[..., None]) -> None:
    gpus("3,5")
    with pytest.raises(UserError, match="device: got 'cuda:2'; this machine has 2 GPUs, counted from 0"):
        choose_device("cuda:2", "auto")


@pytest.mark.parametrize("visible", [None, "3,5"])
@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:1"])
def test_a_process_that_has_started_cuda_with_several_gpus_is_refused(
    gpus: Callable[..., None], visible: str | None, wanted: str
) -> None:
    """As in a notebook. Trainer would compute on the first with all of them, and another would be metered."""
    gpus(visible, started=True)
    index = 1 if wanted == "cuda:1" else 0
    number = (visible or "0,1,2,3").split(",")[index]
    with pytest.raises(UserError, match=rf"device: got '{wanted}'.*set CUDA_VISIBLE_DEVICES={number} before it starts"):
        choose_device(wanted, "auto")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_a_process_that_has_started_cuda_with_one_gpu_uses_it(gpus: Callable[..., None]) -> None:
    gpus("5", started=True)
    assert choose_device("auto", "auto").name == "5"


FIRST_CALL = """
import os, sys
import torch
torch.cuda.device_count = lambda: 2
def driver():
    os.write(1, f"{sys.argv[0]} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n".encode())
    os._exit(0)
torch._C._cuda_getDeviceCount = torch.cuda.is_available = driver
def run():
    from lora_scaling.config import compose
    from lora_scaling.runs.run import _prepare_process
    _prepare_process(compose(["device=cuda:1", "precision=fp32"]))
def pilot():
    from lora_scaling.commands.estimate import main
    main(["device=cuda:1", "precision=fp32", "pilot=1s", "model=ladder-1m", "hardware=rtx-4090"])
for part in (run, pilot):
    if (child := os.fork()) == 0:
        sys.argv = [part.__name__]
        part()
        os._exit(1)
    os.waitpid(child, 0)
"""


def test_the_driver_is_not_asked_before_the_other_gpus_are_hidden() -> None:
    """Importing bitsandbytes asks it: what is hidden after that is still computed on."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("CUDA")}
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], env=env, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("run ", "pilot "))]
    assert lines == ["run 1", "pilot 1"], done.stderr


@pytest.mark.parametrize(("ranks", "shown", "index"), [(0, 4, 0), (3, 4, 3), (3, 1, 0), (1, 2, 1)])
def test_a_rank_uses_the_gpu_of_its_number_or_the_only_one_it_is_shown(
    ranks: int, shown: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`srun --gpus-per-task=1` shows each its own as number 0."""
    monkeypatch.setenv("LOCAL_RANK", str(ranks))
    monkeypatch.setattr("torch.cuda.device_count", lambda: shown)
    assert local_gpu() == index


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "NCCL error: unhandled cuda error, Failed to CUDA calloc async 608 bytes",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    ],
)
def test_memory_that_a_library_could_not_get_is_out_of_memory(text: str) -> None:
    device = Device(kind="cuda", name="Stub", precision="bf16")
    with pytest.raises(OutOfMemory, match="ran out of memory"), explain_out_of_memory(compose([]), device):
        raise RuntimeError(text)


@pytest.mark.parametrize(
    ("text", "sticky"),
    [
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: invalid device ordinal", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_errors_after_which_a_process_cannot_use_its_gpu_are_known(text: str, sticky: bool) -> None:
    assert is_sticky(RuntimeError(text)) is sticky


def record_on(device: str, *, gpus: int, model_flops: float, train_s: float) -> Record:
    phase = {"name": "train", "seconds": train_s, "components": {}}
    return {
        "device": {"kind": "cuda", "name": device, "memory_gb": 85.0, "gpu_count": gpus},
        "work": {"model_flops": model_flops},
        "training": {"precision": "bf16"},
        "energy": {"phases": [phase]},
    }


def test_utilisation_is_of_the_dense_peak_of_all_devices() -> None:
    """312 TFLOP/s of each A100: 6.24e14 operations in 4 s on two of them are a quarter."""
    config = compose([])
    assert preset("a100-80gb").peak_tflops["bf16"] == 312
    known = record_on("NVIDIA A100-SXM4-80GB", gpus=2, model_flops=6.24e14, train_s=4.0)
    assert _utilisation(config, known) == pytest.approx(0.25)
    unlisted = record_on("Some accelerator", gpus=1, model_flops=1e12, train_s=1.0)
    assert _utilisation(config, unlisted) is None
    assert _utilisation(compose(["hardware=rtx-a4000"]), unlisted) is None  # another device's sheet
    own = compose(["hardware=custom", "hardware.name=mine", "hardware.peak_tflops.bf16=10"])
    assert _utilisation(own, unlisted) == pytest.approx(0.1)
    nameless = compose(["hardware=custom", "hardware.peak_tflops.bf16=10"])
    assert _utilisation(nameless, unlisted) == pytest.approx(0.1)
