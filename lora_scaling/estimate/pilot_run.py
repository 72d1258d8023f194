"""Run a pilot: the set-up, evaluation and first steps of a run, measured for about a minute and then discarded.

`lora_scaling.estimate.pilot` scales the measurements to the whole run. The pilot writes only to a temporary folder, and
leaves no record.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable, Sized
from pathlib import Path

import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_scaling.config import RunConfig
from lora_scaling.energy import EnergyAccount, MeteringSettings, Recording, open_meter, settings_on
from lora_scaling.errors import RunFailure, UserError
from lora_scaling.estimate.pilot import PilotMeasurement, PilotPhase, PilotStep, refuse_elsewhere, refuse_several
from lora_scaling.estimate.shapes import with_shape
from lora_scaling.training.batches import Collator
from lora_scaling.training.device import Device, choose_device, explain_out_of_memory
from lora_scaling.training.fetching import fetch_weights
from lora_scaling.training.model_cache import ModelCache, Tokens
from lora_scaling.training.models import BaseModel, attach
from lora_scaling.training.tokens import TokenizedDataset
from lora_scaling.training.trainer import Counted, MeteredTrainer, make_trainer
from lora_scaling.workload import ModelShape, epochs_and_passes, step_count, training_flops

_LEAST_STEPS = 4
_EPOCHS_DRAWN = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Whole:
    """Tokens (padding included), query-key pairs and micro-steps of the training phase."""

    tokens: int
    pairs: int
    micro_steps: int


def run_pilot(config: RunConfig, seconds: float) -> PilotMeasurement:
    """Measure about `seconds` of this run on this device, and at least a few steps, however long they take.

    If the model's weights are not available, random weights of its shape are used; they cost the same. The tokenizer is
    needed in any case, except for synthetic samples, which are equally long with any tokenizer.

    Raises:
        UserError: the run cannot be made here, needs several devices or another one, has an unknown shape or unknown
            sample lengths, or max_steps=0 leaves nothing to measure.
        OutOfMemory: the device did not have enough memory.
        RunFailure: no energy could be measured.
    """
    if config.max_steps == 0:
        raise UserError("max_steps: got 0 with pilot=; a pilot measures training steps: leave one of the two out")
    refuse_several(config)
    device = choose_device(config.device, config.precision)
    refuse_elsewhere(config, device.name, device.kind)
    config = dataclasses.replace(config, metering=_always_on(config.metering), model=with_shape(config.model))
    metering = settings_on(config.metering, kind=device.kind, gpu_uuid=device.gpu_uuid())
    meter = open_meter(metering, device.synchronize, gpu_expected=device.kind != "cpu")
    models = ModelCache()
    fetch_weights(config)
    with tempfile.TemporaryDirectory(prefix="lora-scaling-pilot-") as folder:
        recording = meter.recording()
        try:
            started = time.perf_counter()
            with explain_out_of_memory(config, device):
                with recording.phase("setup"):
                    base, tokens, stands_in = _prepare(config, device, models)
                    watch = _Watch(device.synchronize)
                    trainer = _trainer(config, device, base, tokens, watch, Path(folder))
                _measure(config, trainer, watch, recording, started + seconds)
            whole = _whole(config, trainer, tokens.train)
        finally:
            account = recording.close(None)
    assert base.shape is not None
    return _measurement(config, device, base.shape, whole, tokens.train, watch, account, stands_in=stands_in)


def _always_on(metering: MeteringSettings) -> MeteringSettings:
    return dataclasses.replace(metering, enabled=True)


def _prepare(config: RunConfig, device: Device, models: ModelCache) -> tuple[BaseModel, Tokens, bool]:
    """Return the model, its tokens, and whether random weights replace the real ones."""
    stands_in = False
    try:
        base, _ = models.base(config, device)
    except UserError:
        if config.model.weights == "random" or config.model.shape is None:
            raise
        stands_in = True
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="random"))
        base, _ = models.base(config, device)
        _refuse_bytes(config, base)
    if base.shape is None:
        raise UserError(f"model: got {config.model.name}, whose shape is unknown: its work cannot be scaled")
    tokens, _ = models.tokens(config, base)
    return base, tokens, stands_in


def _refuse_bytes(config: RunConfig, base: BaseModel) -> None:
    """Refuse bytes as tokens of real samples: they are four times as many, in longer rows."""
    if config.data.kind != "synthetic" and base.tokenizer_name == "bytes":
        raise UserError(
            f"pilot: needs the tokenizer of {config.model.id or config.model.name}, which is not here, to know how "
            f"long the samples of {config.data.name} are; download it, or measure synthetic ones: data=synthetic "
            "data.tokens_per_sample=NUMBER"
        )


class _Watch(TrainerCallback):
    """Time each optimizer step until the deadline, and keep what the FLOPs of its batches are computed from."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize
        self.deadline = float("inf")
        self.started = self.last = 0.0
        self.seconds: list[float] = []
        self.counts: list[tuple[int, int, int]] = []
        self.counted: Callable[[], Counted] = Counted

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.started = self.last = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        done = self.counted()
        self.counts.append((done.tokens + done.padding, done.pairs, done.micro_steps))
        if now >= self.deadline and len(self.seconds) >= _LEAST_STEPS:
            control.should_training_stop = True

    def steps(self, config: RunConfig, shape: ModelShape) -> list[PilotStep]:
        """Return the time and work of each step, as differences of the running counts."""
        found, before = [], (0, 0, 0)
        for seconds, counts in zip(self.seconds, self.counts, strict=True):
            tokens, pairs, micro_steps = (now - then for now, then in zip(counts, before, strict=True))
            before = counts
            flops = _flops(config, shape, tokens, pairs)
            found.append(PilotStep(seconds=seconds, micro_steps=micro_steps, flops=flops))
        return found


def _trainer(
    config: RunConfig, device: Device, base: BaseModel, tokens: Tokens, watch: _Watch, folder: Path
) -> MeteredTrainer:
    pad = base.tokenizer.pad_token_id
    trainer = make_trainer(
        attach(base, config),
        tokens.train.rows,
        tokens.held_out.rows,
        Collator(pad if isinstance(pad, int) else 0, config),
        config=config,
        device=device,
        progress=lambda done, total: None,
        folder=folder,
    )
    watch.counted = lambda: trainer.counted
    trainer.add_callback(watch)
    return trainer


def _measure(config: RunConfig, trainer: MeteredTrainer, watch: _Watch, recording: Recording, deadline: float) -> None:
    before = time.perf_counter()
    _evaluate(config, trainer, recording)
    spent_s = time.perf_counter() - before
    if config.warmup_steps:
        with recording.phase("warmup"):
            trainer.warm_up(config.warmup_steps)
    transformers.set_seed(config.seed)
    watch.deadline = deadline - spent_s  # the second evaluation costs about as much
    with recording.phase("train"):
        trainer.train()
    _evaluate(config, trainer, recording)


def _evaluate(config: RunConfig, trainer: MeteredTrainer, recording: Recording) -> None:
    if config.eval_samples:
        with recording.phase("eval"):
            trainer.evaluate_held_out()


def _measurement(
    config: RunConfig,
    device: Device,
    shape: ModelShape,
    whole: _Whole,
    train: TokenizedDataset,
    watch: _Watch,
    account: EnergyAccount,
    *,
    stands_in: bool,
) -> PilotMeasurement:
    measured = _phase(account, "train")
    setup = _phase(account, "setup")
    if measured is None or setup is None:
        raise RunFailure("the pilot could not measure energy: " + "; ".join(w["message"] for w in account.warnings))
    sources = sorted({c.source for c in account.components.values() if c.source != "none"})
    return PilotMeasurement(
        device=device.name,
        kind=device.kind,
        energy_source=", ".join(sources),
        setup=setup,
        warmup=_phase(account, "warmup"),
        train=measured,
        evaluation=_phase(account, "eval"),
        steps=watch.steps(config, shape),
        whole_flops=_flops(config, shape, whole.tokens, whole.pairs),
        whole_micro_steps=whole.micro_steps,
        lengths=_lengths(train, config.max_seq_len),
        random_weights=stands_in,
        exclusive=account.exclusive,
    )


def _lengths(train: TokenizedDataset, limit: int) -> list[int]:
    """Return the tokens of each sample. The truncated total is divided among the samples that reach the limit."""
    cut = sum(length == limit for length in train.sample_lengths)
    each, rest = divmod(train.truncated, cut) if cut else (0, 0)
    longer = iter(range(cut))
    return [length + each + (next(longer) < rest) if length == limit else length for length in train.sample_lengths]


def _phase(account: EnergyAccount, name: str) -> PilotPhase | None:
    joules = account.phase_joules(name)
    if joules is None:
        return None
    return PilotPhase(seconds=sum(p.seconds for p in account.phases if p.name == name), joules=joules)


def _whole(config: RunConfig, trainer: MeteredTrainer, train: TokenizedDataset) -> _Whole:
    """Compute the work of the whole training phase from the batches that the run's own sampler makes.

    A few epochs are shuffled to represent many, because with length grouping the padding depends on chance, especially
    in a small training set.
    """
    transformers.set_seed(config.seed)
    batches = trainer.get_train_dataloader().batch_sampler
    assert isinstance(batches, Iterable)
    assert isinstance(batches, Sized)
    steps = step_count(
        len(train.rows),
        epochs=config.epochs,
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        max_steps=config.max_steps,
    )
    whole, further = epochs_and_passes(steps, len(batches), config.gradient_accumulation)
    micro_steps = whole * len(batches) + further
    drawn = [rows for _ in range(min(config.epochs, _EPOCHS_DRAWN)) for rows in batches][:micro_steps]
    fixed = config.max_seq_len if config.padding == "max_length" else 0
    lengths = [fixed or max(train.lengths[i] for i in rows) for rows in drawn]
    times = micro_steps / len(drawn)
    return _Whole(
        tokens=round(times * sum(len(rows) * length for rows, length in zip(drawn, lengths, strict=True))),
        pairs=round(times * sum(len(rows) * length**2 for rows, length in zip(drawn, lengths, strict=True))),
        micro_steps=micro_steps,
    )


def _flops(config: RunConfig, shape: ModelShape, tokens: int, pairs: int) -> float:
    work = training_flops(shape, config.tuning, tokens=tokens, pairs=pairs, checkpointing=config.gradient_checkpointing)
    return float(work.total)
