"""Compare the tokens per second of a measured run with a bare `transformers.Trainer` and TRL's `SFTTrainer`.

    python benchmarks/against_trainers.py [--model ladder-3m] [--samples 128] [--repeats 5] [--no-trl]

All three use the same network, samples, batch size, order of work and optimizer. They run in turn, so that a drift in
the speed of the machine affects all of them; the result is the median of `--repeats`. The measured run includes
metering. Needs `pip install trl`, unless --no-trl is given.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import transformers
from transformers import Trainer, TrainingArguments

from lora_scaling.config import RunConfig, compose
from lora_scaling.data.samples import split_samples
from lora_scaling.runs.run import run
from lora_scaling.training.batches import Collator
from lora_scaling.training.device import choose_device
from lora_scaling.training.models import BaseModel, attach, detach, load_base
from lora_scaling.training.tokens import TokenizedDataset, tokenize
from lora_scaling.training.trainer import training_arguments

transformers.logging.set_verbosity_error()


def ours(config: RunConfig) -> float:
    record = run(config).record
    assert record is not None
    assert record["status"] == "ok", record["error"]
    train = next(phase for phase in record["energy"]["phases"] if phase["name"] == "train")
    return record["work"]["tokens_seen"] / train["seconds"]


def bare_trainer(config: RunConfig, base: BaseModel, dataset: TokenizedDataset, folder: str) -> float:
    """Build the trainer one would write by hand: the same arguments, a padding collator, nothing else."""
    network = attach(base, config)
    device = choose_device(config.device, config.precision)
    trainer = Trainer(
        model=network,  # type: ignore[arg-type]
        args=training_arguments(config, device, folder),  # type: ignore[arg-type]
        train_dataset=dataset.rows,  # type: ignore[arg-type]
        data_collator=Collator(base.tokenizer.pad_token_id, config),  # type: ignore[arg-type]
    )
    trainer.remove_callback(transformers.PrinterCallback)
    seconds = _timed(trainer.train)
    detach(network, base)
    return dataset.tokens / seconds


def sft_trainer(config: RunConfig, base: BaseModel, dataset: TokenizedDataset, folder: str) -> float:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    network = attach(base, config)
    plain: TrainingArguments = training_arguments(config, choose_device(config.device, config.precision), folder)  # type: ignore[arg-type]
    shared = ("per_device_train_batch_size", "num_train_epochs", "learning_rate", "lr_scheduler_type", "optim", "seed",
              "max_grad_norm", "weight_decay", "use_cpu", "bf16", "fp16", "logging_strategy", "save_strategy",
              "report_to", "disable_tqdm", "train_sampling_strategy", "output_dir")  # fmt: skip
    arguments = SFTConfig(
        **{name: getattr(plain, name) for name in shared},
        activation_checkpointing=config.gradient_checkpointing,
        max_length=config.max_seq_len,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=network,  # type: ignore[arg-type]
        args=arguments,
        train_dataset=Dataset.from_list([{k: list(v) for k, v in row.items()} for row in dataset.rows]),
        processing_class=base.tokenizer,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    seconds = _timed(trainer.train)
    detach(network, base)
    return dataset.tokens / seconds


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ladder-3m")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-trl", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = compose(
            [f"model={options.model}", f"samples={options.samples}", f"runs_dir={folder}", "on_existing=rerun"]
        )
        base = load_base(config, choose_device(config.device, config.precision))
        dataset = tokenize(split_samples(config).train, base.tokenizer, config)
        contestants: dict[str, Callable[[], float]] = {
            "lora_scaling": lambda: ours(config),
            "Trainer": lambda: bare_trainer(config, base, dataset, folder),
        }
        if not options.no_trl:
            contestants["SFTTrainer"] = lambda: sft_trainer(config, base, dataset, folder)
        speeds: dict[str, list[float]] = {name: [] for name in contestants}
        for repeat in range(options.repeats + 1):
            for name, contestant in contestants.items():
                speed = contestant()
                if repeat:  # the first round warms up all three
                    speeds[name].append(speed)
    print(f"{options.model}, {options.samples} samples, {torch.get_num_threads()} threads, {options.repeats} repeats")
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(speeds["lora_scaling"], values, strict=True)]
        print(
            f"{name:14} {statistics.median(values):10,.0f} tokens/s   "
            f"lora_scaling is {statistics.median(ratios):.3f} × as fast ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
