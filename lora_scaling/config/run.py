"""The configuration of a run as frozen dataclasses. All defaults are in `conf/`; none is filled in here."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_scaling.config.build import plain, suggest
from lora_scaling.energy import MeteringSettings
from lora_scaling.errors import UserError
from lora_scaling.grid import GridSettings
from lora_scaling.grid.http import masked
from lora_scaling.paths import in_home, presets
from lora_scaling.settings import SETTINGS, Setting, value_at
from lora_scaling.workload import LINEAR, Batching, Lengths, ModelShape, Tuning, Workload


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model: its shape for arithmetic, and where its weights come from."""

    name: str
    id: str | None
    gguf_file: str | None
    revision: str | None
    weights: Literal["pretrained", "random"]
    shape: ModelShape | None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A training set. `tokens_per_sample` (mean) and `tokens_cv` describe its lengths if it is not read."""

    name: str
    kind: Literal["synthetic", "file", "hub"]
    path: str | None
    eval_path: str | None
    split: str
    layout: Literal["auto", "alpaca", "chat", "sharegpt", "skolegpt", "completion", "text"]
    fields: Mapping[str, str]
    tokens_per_sample: float | None
    tokens_cv: float
    bytes_per_sample: float | None
    repeat: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Tasks on which the model is scored before and after training, and by what.

    limit: examples of each task. command: the program of EuroEval, with options of its own.
    """

    name: Literal["none", "lm_eval", "euroeval"]
    tasks: tuple[str, ...]
    limit: int | None
    command: str | None

    def __post_init__(self) -> None:
        if self.name != "none" and not self.tasks:
            raise UserError(f"score.tasks: got [] with score={self.name}; name at least one task")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"score.limit: got {self.limit}; give 1 or more, or null for all")


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What is trained, and the learning rate unless `learning_rate` gives another."""

    name: Literal["lora", "qlora", "full"]
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The adapters: rank, scaling, dropout, adapted matrices, and whether DoRA also learns magnitudes."""

    r: int
    alpha: float
    dropout: float
    target_modules: str | tuple[str, ...]
    use_dora: bool

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise UserError(f"lora.alpha: got {self.alpha}; give a number above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout: got {self.dropout}; give a number from 0 to below 1")

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the adapted matrices; `all-linear` means every one inside the layers."""
        if self.target_modules == "all-linear":
            return LINEAR
        if isinstance(self.target_modules, str):
            return (self.target_modules,)
        return self.target_modules


_MOST_DEVICES = 10**5  # beyond any machine


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """A device for estimates; dense peaks. `auto` leaves everything else null: the device is recognised.

    matmul_share: the fastest matrix product that was measured, as a share of the peak, by precision.
    link_gb_s, network_gb_s: rate per device in one direction, to the others in its machine and beyond it.
    devices_per_node: devices in one machine. host_power_w: of the machine without its devices, per device.
    """

    name: str
    kind: Literal["auto", "cuda", "rocm", "mps", "cpu"]
    count: int
    peak_tflops: Mapping[str, float | None]
    bandwidth_gb_s: float | None
    memory_gb: float | None
    board_power_w: float | None
    idle_power_w: float | None
    sources: Mapping[str, str]
    # Sheets from before version 0.2 do not have these.
    matmul_share: Mapping[str, float | None] = field(default_factory=dict)
    link_gb_s: float | None = None
    network_gb_s: float | None = None
    devices_per_node: int = 8
    host_power_w: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_DEVICES:
            raise UserError(f"hardware.count: got {self.count}; give 1 to {_MOST_DEVICES}")
        if not 1 <= self.devices_per_node <= _MOST_DEVICES:
            raise UserError(f"hardware.devices_per_node: got {self.devices_per_node}; give 1 to {_MOST_DEVICES}")
        for name, value in self._numbers():
            least, most = _SHEET_BOUNDS[name.partition(".")[0]]
            if value is not None and not least <= value <= most:
                allowed = "a number above 0" if least and value <= 0 else f"{least:g} to {most:g}"
                raise UserError(f"hardware.{name}: got {value:g}; give {allowed}, or null where it is unknown")
        if self.idle_power_w is not None and self.idle_power_w < 0:
            raise UserError(
                f"hardware.idle_power_w: got {self.idle_power_w:g}; give 0 or more, or null where it is unknown"
            )
        board_w = self.board_power_w
        if self.idle_power_w is not None and board_w is not None and self.idle_power_w > board_w:
            raise UserError(
                f"hardware.idle_power_w: got {self.idle_power_w:g}; give at most board_power_w, which is {board_w:g}, "
                "or null where it is unknown"
            )

    def _numbers(self) -> Iterator[tuple[str, float | None]]:
        """Yield every number of the sheet that has bounds, by its name."""
        groups = ("peak_tflops", "matmul_share")
        for group in groups:
            yield from ((f"{group}.{name}", value) for name, value in getattr(self, group).items())
        yield from ((name, getattr(self, name)) for name in _SHEET_BOUNDS if name not in groups)


# Beyond any device, from a chip of some watts to one of the next decade: a value outside is a slip of the unit.
_SHEET_BOUNDS = {
    "peak_tflops": (1e-4, 1e6), "matmul_share": (0.01, 1.0), "bandwidth_gb_s": (0.1, 1e6), "memory_gb": (0.1, 1e5),
    "board_power_w": (0.1, 1e5), "link_gb_s": (0.01, 1e5), "network_gb_s": (0.001, 1e5), "host_power_w": (0.0, 1e4),
}  # fmt: skip


# What a sweeper may search by, with the column of the runs table that holds it.
OBJECTIVES = {
    "energy_kwh": "energy_kwh", "energy_train_kwh": "energy_train_kwh", "emissions_g": "emissions_g",
    "train_s": "train_s", "total_s": "total_s", "train_loss": "train_loss", "eval_loss": "eval_loss_after",
    "eval_accuracy": "eval_accuracy_after", "score": "score_after", "peak_memory_gb": "peak_memory_gb", "mfu": "mfu",
}  # fmt: skip
Tracker = Literal["mlflow", "wandb", "tensorboard", "trackio"]

_BASE_MODEL_FIELDS = tuple(setting.field for setting in SETTINGS if setting.base_model)
_TOKEN_FIELDS = tuple(setting.field for setting in SETTINGS if setting.tokens)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, fully specified. `conf/config.yaml` documents each field; the order below follows it."""

    samples: int
    epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation: int
    max_seq_len: int
    padding: Literal["longest", "max_length"]
    group_by_length: bool
    packing: bool
    loss_on: Literal["answers", "all"]
    chat_template: bool
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp8"]
    pure_bf16: bool
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
    gradient_checkpointing: bool
    sharding: Literal["none", "fsdp"]
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"]
    use_liger_kernel: bool
    torch_compile: bool
    learning_rate: float | None
    lr_scheduler: Literal["constant", "linear", "cosine"]
    weight_decay: float
    max_grad_norm: float
    eval_samples: int
    warmup_steps: int
    warmup_run: bool
    device: str
    seed: int
    replicate: int
    save_adapter: bool
    resume: Literal["never", "auto"]
    checkpoint_minutes: float
    report_to: Tracker | tuple[Tracker, ...]

    model: ModelConfig
    method: MethodConfig
    lora: LoraConfig
    data: DataConfig
    hardware: HardwareConfig
    metering: MeteringSettings
    grid: GridSettings
    score: ScoreConfig

    study: str
    runs_dir: str
    on_existing: Literal["skip", "rerun"]
    replicates: int
    order: int | None
    order_seed: int
    reuse: bool
    exclusive_device: bool
    cooldown_s: float
    max_kwh: float | None
    max_hours: float | None
    objective: str | tuple[str, ...] | None
    session: str | None

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            if setting.name == setting.field:
                _check_bounds(setting, getattr(self, setting.name))
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UserError(f"device: got {self.device!r}; choose auto, cpu, mps, cuda, or one GPU, such as cuda:0")
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.study):
            raise UserError(
                f"study: got {self.study!r}; it names a folder: use letters, digits, dots, dashes and underscores"
            )
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise UserError(f"objective: got {name!r}; {suggest(name, list(OBJECTIVES))}")
        if self.packing and self.padding == "max_length":
            raise UserError("padding: got 'max_length' together with packing=true; choose one of the two")
        if self.lora.use_dora and not self.tuning.adapted:
            raise UserError("lora.use_dora: got true with method=full, which has no adapters; use method=lora or qlora")
        if self.sharding == "fsdp":
            self._refuse_unsharded()

    def _refuse_unsharded(self) -> None:
        """Refuse optimizer states that bitsandbytes stores in its own format, which cannot be split by rows."""
        if self.optimizer != "adamw":
            raise UserError(
                f"optimizer: got {self.optimizer} with sharding=fsdp, whose states cannot be split here; "
                "use optimizer=adamw"
            )

    @property
    def can_shard(self) -> bool:
        """Whether a run with these settings can be made with sharding=fsdp. Estimates take 4-bit weights as well."""
        return self.method.name != "qlora" and self.optimizer == "adamw"

    @property
    def shares_base_model(self) -> bool:
        """Whether the run takes a model that its process kept, and leaves it as it was for the next run.

        A model that is trained as a whole is changed, and sharding takes it apart.
        """
        return self.reuse and self.tuning.adapted and self.sharding == "none"

    def base_model_key(self, device_kind: str, precision: str) -> str:
        """What distinguishes the base models that a process keeps; `precision` as the device resolves it."""
        quantized = "nf4" if self.method.name == "qlora" else "plain"
        return f"{self._key(*_BASE_MODEL_FIELDS)} {device_kind} {precision} {quantized}"

    @property
    def tokens_key(self) -> str:
        """What distinguishes the tokenized samples that a process keeps."""
        return self._key(*_TOKEN_FIELDS, "model")

    def _key(self, *fields: str) -> str:
        return json.dumps({name: plain(getattr(self, name)) for name in fields}, sort_keys=True)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the run returns to a sweeper that searches, in its order."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective or ()

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """The trackers that get the finished run, each once."""
        given = (self.report_to,) if isinstance(self.report_to, str) else self.report_to
        return tuple(dict.fromkeys(given))

    @property
    def tuning(self) -> Tuning:
        """The trained parameters, for the arithmetic."""
        return Tuning(method=self.method.name, rank=self.lora.r, targets=self.lora.targets, use_dora=self.lora.use_dora)

    @property
    def batching(self) -> Batching:
        """How samples become batches, for the arithmetic."""
        return Batching(
            batch_size=self.batch_size,
            max_seq_len=self.max_seq_len,
            padding=self.padding,
            group_by_length=self.group_by_length,
            packing=self.packing,
            bounded=self.attn_implementation in ("flash_attention_2", "flash_attention_3"),
        )

    def workload(self, lengths: Lengths) -> Workload:
        """Compute the run's expected work for samples of these lengths.

        Raises:
            UserError: the model's shape is unknown, or the adapter does not fit it.
        """
        if self.model.shape is None:
            raise UserError(
                f"model.shape: unknown here for {self.model.name}; give model.shape.* or choose a preset: "
                + ", ".join(presets("model"))
            )
        return Workload(
            shape=self.model.shape,
            tuning=self.tuning,
            samples=self.samples,
            epochs=self.epochs,
            lengths=lengths,
            batching=self.batching,
            gradient_accumulation=self.gradient_accumulation,
            max_steps=self.max_steps,
            checkpointing=self.gradient_checkpointing,
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON types, for the record; a login in an address is left out."""
        values = plain(self)
        if self.grid.base_url is not None:
            values["grid"]["base_url"] = masked(self.grid.base_url)
        return values


_NAMING_FIELDS = frozenset(setting.field for setting in SETTINGS if setting.names_run)
# Lengths of samples as estimates assume them; of synthetic data they are the data.
_ASSUMED_LENGTHS = ("tokens_per_sample", "tokens_cv", "bytes_per_sample")


# What shapes had no numbers for at first; like settings that came later, it names only the models that have it.
_FIRST_SHAPE = {
    "architecture", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim", "vocab_size",
    "tied_embeddings", "attention_bias", "max_positions", "experts", "experts_per_token",
}  # fmt: skip
_LATER_SHAPE = {f.name: f.default for f in dataclasses.fields(ModelShape) if f.name not in _FIRST_SHAPE}


def run_id(config: RunConfig) -> str:
    """Name the run: the same for the same work and replicate, on any machine and in any order.

    Raises:
        UserError: the data file, whose content is part of the work, cannot be read.
    """
    work = {key: plain(getattr(config, key)) for key in _NAMING_FIELDS}
    for setting in SETTINGS:
        if setting.is_older(value_at(work, setting.name)):  # runs from before the setting keep their names
            group = work if setting.name == setting.field else work[setting.field]
            del group[setting.name.rpartition(".")[2]]
    if config.model.shape is not None:
        shape = work["model"]["shape"]
        work["model"]["shape"] = {k: v for k, v in shape.items() if k not in _LATER_SHAPE or v != _LATER_SHAPE[k]}
    work["device"] = device_kind(config.device)
    work["method"] = config.method.name
    work["learning_rate"] = config.learning_rate or config.method.learning_rate
    if config.tuning.adapted:
        work.pop("pure_bf16", None)
    else:
        del work["lora"]
    if config.data.kind != "synthetic":
        work["data"] = {key: value for key, value in work["data"].items() if key not in _ASSUMED_LENGTHS}
    if config.data.path and config.data.kind == "file":
        work["data"]["path"] = _fingerprint(in_home(config.data.path))
    if config.data.eval_path:
        work["data"]["eval_path"] = _fingerprint(in_home(config.data.eval_path), "data.eval_path")
    digest = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:10]
    model = re.sub(r"[^A-Za-z0-9.]+", "-", config.model.name).strip("-")
    rank = f"-r{config.lora.r}" if config.tuning.adapted else ""
    parts = f"{model}-{config.method.name}{rank}-s{config.samples}-e{config.epochs}"
    return f"{parts}-{digest}-{config.replicate}"


def device_kind(device: str) -> str:
    """`cuda:1` as `cuda`: which device of its kind does the work makes no difference."""
    return device.partition(":")[0]


def _fingerprint(path: Path, setting: str = "data.path") -> str:
    """Digest a file's content: moving the file changes nothing, editing it does (as renaming does, by `data.name`)."""
    try:
        known = path.stat()
        return _digest(path.absolute(), known.st_size, known.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{setting}: got {path}, which cannot be read ({error.strerror}); give a file") from None


@functools.lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """Digest a file once for all runs of a sweep, as long as its size and time of change stay the same."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_bounds(setting: Setting, value: Any) -> None:
    if value is None:
        return
    if setting.least is not None and value < setting.least:
        raise UserError(f"{setting.name}: got {value}; give {setting.least} or more")
    if setting.most is not None and value > setting.most:
        raise UserError(f"{setting.name}: got {value}; give {setting.most} or less")
    if setting.above is not None and not value > setting.above:
        raise UserError(f"{setting.name}: got {value}; give a number above {setting.above}, or null")
