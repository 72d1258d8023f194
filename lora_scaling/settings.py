"""List the settings of a run, one row each: what a setting changes, its column, and who reads it.

Every list of settings in this project is derived from this table. A new setting takes one row here, a field in the
dataclass of the configuration, its default in `conf/`, and the line of code that uses it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Change = Literal["work", "learning", "device", "nothing"]
ColumnKind = Literal["number", "text", "truth"]
Repeat = Literal["point", "column", "words"]

_ALWAYS_WRITTEN = object()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting, or one group of settings.

    name: as an override writes it; a group's name stands for all settings of the group without a row.
    changes: `work` (time and energy), `learning` (only what is learned), `device` (where the work is done), or
        `nothing`. The first two are part of a run's name; runs that differ in `work` or `device` are never compared.
    column, kind: the column of the runs table that holds the setting, and the type of its values.
    recorded: where a record holds the value that the run really had, if it may differ from the configuration.
    repeat: how a command that makes more such runs gives the setting: as the `point` of its sweep, from its `column`,
        or among the further `words` (`settings_override`) that differ from the defaults.
    tokens, base_model: whether the setting changes the token ids of the samples, or the base model as it is loaded.
    counted: whether the arithmetic of estimates counts the setting's effect.
    uncounted: what an estimate says about the setting at the value `uncounted_at`, if it changes the work but is not
        counted.
    older: the value of all runs that were made before the setting existed. It is left out of a run's name.
    had: what the record of such a run tells of the setting, where that is another value than `older`.
    aliases: what other programs call the setting.
    least, above, most: bounds of the value.
    """

    name: str
    changes: Change
    column: str | None = None
    kind: ColumnKind = "text"
    recorded: str | None = None
    repeat: Repeat | None = None
    tokens: bool = False
    base_model: bool = False
    counted: bool = False
    uncounted: str | None = None
    uncounted_at: Any = True
    older: Any = _ALWAYS_WRITTEN
    had: Callable[[Mapping[str, Any]], Any] | None = None
    aliases: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    most: float | None = None

    @property
    def names_run(self) -> bool:
        """Whether runs that differ in this setting are different runs."""
        return self.changes in ("work", "learning")

    @property
    def field(self) -> str:
        """The field of the configuration that holds the setting or its group."""
        return self.name.partition(".")[0]

    @property
    def has_older(self) -> bool:
        """Whether runs were made before the setting existed."""
        return self.older is not _ALWAYS_WRITTEN

    def is_older(self, value: Any) -> bool:
        """Return whether a value is that of the runs from before the setting existed."""
        return self.has_older and value == self.older

    def before(self, record: Mapping[str, Any]) -> Any:
        """Return the value that a run from before the setting existed had, given its record."""
        return self.older if self.had is None else self.had(record)


def value_at(mapping: Any, name: str, absent: Any = None) -> Any:
    """Return the value at a dotted name in nested mappings, or `absent` if a part is missing or not a mapping."""
    for part in name.split("."):
        # The type of nearly all is asked first: a table of many runs asks a million times.
        if (type(mapping) is not dict and not isinstance(mapping, Mapping)) or part not in mapping:
            return absent
        mapping = mapping[part]
    return mapping


def was_pure_bf16(record: Mapping[str, Any]) -> bool:
    """Return whether a run from before the setting trained 16-bit weights: all of method=full in bf16 did."""
    return value_at(record, "config.method.name") == "full" and value_at(record, "training.precision") == "bf16"


# The upper bounds are far beyond any real run: a larger value is a typing mistake.
SETTINGS = (
    Setting(name="samples", changes="work", column="samples", kind="number", repeat="point", tokens=True, counted=True,
            aliases=("n_samples", "num_samples", "train_samples"), least=1, most=10**10),
    Setting(name="epochs", changes="work", column="epochs", kind="number", repeat="point", counted=True,
            aliases=("n_epochs", "num_epochs", "num_train_epochs"), least=1, most=10**4),
    Setting(name="max_steps", changes="work", repeat="point", counted=True, least=0, most=10**12),
    Setting(name="model", changes="work", column="model", recorded="model.name", repeat="column", base_model=True),
    Setting(name="model.weights", changes="work", column="weights", recorded="model.weights"),
    Setting(name="data", changes="work", column="data", recorded="data.name", repeat="column", tokens=True,
            aliases=("dataset",)),
    Setting(name="data.eval_path", changes="work", tokens=True, older=None),
    Setting(name="method", changes="work", column="method", repeat="column"),
    Setting(name="lora.r", changes="work", column="rank", kind="number", repeat="column",
            aliases=("rank", "lora_rank", "lora_r")),
    Setting(name="hardware", changes="device", column="hardware", recorded="device.name", aliases=("gpu",)),
    Setting(name="hardware.count", changes="device", column="gpu_count", kind="number", recorded="device.gpu_count",
            aliases=("gpus",)),
    Setting(name="eval_samples", changes="work", repeat="words", tokens=True, counted=True, least=0, most=10**7),
    Setting(name="loss_on", changes="work", repeat="words", tokens=True),
    Setting(name="chat_template", changes="work", repeat="words", tokens=True),
    Setting(name="batch_size", changes="work", column="batch_size", kind="number", repeat="column", counted=True,
            aliases=("batch", "bs", "train_batch_size", "micro_batch_size", "per_device_train_batch_size"), least=1,
            most=10**6),
    Setting(name="gradient_accumulation", changes="work", column="gradient_accumulation", kind="number",
            repeat="words", counted=True, least=1, most=10**6,
            aliases=("gradient_accumulation_steps", "grad_accum", "grad_accumulation_steps", "accumulation_steps")),
    Setting(name="max_seq_len", changes="work", column="max_seq_len", kind="number", repeat="column", tokens=True,
            counted=True, least=8, most=10**8,
            aliases=("seq_len", "seq_length", "sequence_len", "max_length", "max_seq_length", "cutoff_len")),
    Setting(name="padding", changes="work", repeat="words", counted=True),
    Setting(name="group_by_length", changes="work", repeat="words", counted=True),
    Setting(name="packing", changes="work", repeat="words", tokens=True, counted=True),
    Setting(name="lora.alpha", changes="learning", repeat="words", aliases=("lora_alpha",)),
    Setting(name="lora.dropout", changes="work", repeat="words", aliases=("lora_dropout",)),
    Setting(name="lora.target_modules", changes="work", repeat="words", aliases=("lora_target_modules",)),
    Setting(name="lora.use_dora", changes="work", column="use_dora", kind="truth", repeat="words", older=False,
            aliases=("use_dora", "dora"), uncounted="DoRA's weight norms, computed in each pass, are not counted: "
            "time, energy and memory will be higher"),
    Setting(name="precision", changes="work", column="precision", recorded="training.precision", repeat="words",
            counted=True),
    Setting(name="pure_bf16", changes="work", column="pure_bf16", kind="truth", recorded="training.pure_bf16",
            repeat="words", counted=True, older=False, had=was_pure_bf16),
    Setting(name="attn_implementation", changes="work", column="attn_implementation",
            recorded="training.attn_implementation", repeat="words", base_model=True, older="auto",
            had=lambda record: "sdpa", aliases=("attention", "attn", "use_flash_attention_2", "flash_attention",
            "use_flash_attn"),
            uncounted="eager attention keeps the scores of all pairs of positions, which are not counted: memory and "
            "time will be higher", uncounted_at="eager"),
    Setting(name="gradient_checkpointing", changes="work", column="gradient_checkpointing", kind="truth",
            repeat="words", counted=True),
    Setting(name="sharding", changes="work", repeat="words", counted=True, older="none"),
    Setting(name="optimizer", changes="work", repeat="words", counted=True, aliases=("optim",)),
    Setting(name="use_liger_kernel", changes="work", repeat="words", base_model=True, counted=True, older=False),
    Setting(name="torch_compile", changes="work", repeat="words", older=False, aliases=("compile",),
            uncounted="what torch.compile fuses, and its compiling in the warm-up, are not counted: training will be "
            "faster, and the run as a whole takes minutes more"),
    Setting(name="learning_rate", changes="learning", repeat="words", aliases=("lr",), above=0),
    Setting(name="lr_scheduler", changes="learning", repeat="words", aliases=("lr_scheduler_type", "scheduler")),
    Setting(name="weight_decay", changes="work", repeat="words", least=0),
    Setting(name="max_grad_norm", changes="work", repeat="words"),
    Setting(name="seed", changes="learning", column="seed", kind="number", repeat="words", tokens=True,
            base_model=True, least=0, most=2**32 - 1),
    Setting(name="warmup_steps", changes="work", repeat="words", counted=True, least=0, most=10**6),
    Setting(name="device", changes="work", repeat="words"),
    Setting(name="study", changes="nothing", column="study", recorded="study", repeat="column"),
    Setting(name="replicate", changes="nothing", column="replicate", kind="number", recorded="replicate", least=0),
    Setting(name="order", changes="nothing", column="order", kind="number", recorded="order"),
    Setting(name="session", changes="nothing", column="session", recorded="session"),
    Setting(name="score", changes="nothing"),
    Setting(name="save_adapter", changes="nothing"),
    Setting(name="warmup_run", changes="nothing"),
    Setting(name="resume", changes="nothing"),
    Setting(name="checkpoint_minutes", changes="nothing", above=0),
    Setting(name="report_to", changes="nothing"),
    Setting(name="metering", changes="nothing"),
    Setting(name="grid", changes="nothing"),
    Setting(name="runs_dir", changes="nothing"),
    Setting(name="on_existing", changes="nothing"),
    Setting(name="replicates", changes="nothing", least=1, most=10**4),
    Setting(name="order_seed", changes="nothing"),
    Setting(name="reuse", changes="nothing"),
    Setting(name="exclusive_device", changes="nothing"),
    Setting(name="cooldown_s", changes="nothing", least=0),
    Setting(name="objective", changes="nothing"),
    Setting(name="max_kwh", changes="nothing", above=0),
    Setting(name="max_hours", changes="nothing", above=0),
)  # fmt: skip

# Runs that differ in one of these columns did different work, or worked on another device.
SEPARATING_COLUMNS = tuple(
    s.column for s in SETTINGS if s.column and s.changes in ("work", "device") and s.repeat != "point"
)
POINT_COLUMNS = tuple(s.column for s in SETTINGS if s.column and s.repeat == "point")
