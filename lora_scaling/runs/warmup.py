"""Warm a process up before its first measured run, by a short training that is neither measured nor recorded.

The first training of a process takes longer than the same training later: it imports modules, starts threads, chooses
kernels. In a sweep that looks like a drift of the first run. A run's own discarded passes (`warmup_steps`) do not cover
it, because the optimizer and the loop around it are first used in training.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_scaling.config import DataConfig, ModelConfig, RunConfig
from lora_scaling.config.build import shipped_option
from lora_scaling.errors import one_line
from lora_scaling.ranks import world_size
from lora_scaling.signals import raise_if_interrupted

if TYPE_CHECKING:
    from lora_scaling.energy import Recording
    from lora_scaling.training.device import Device

STEPS = 4
_MOST_ROWS, _LONGEST = 8, 128
# The smallest preset, so that nothing is downloaded and a CPU needs about a second.
_MODEL, _DATA = "ladder-1m", "synthetic"
_TOKENS = 64  # of each sample

# What was done for the trainings of each kind in this process, as records hold it.
_done: dict[tuple[str, ...], dict[str, Any]] = {}


def warm_up_process(config: RunConfig, device: "Device") -> dict[str, Any] | None:
    """Warm up for trainings of this kind, unless that is done; return what was done, or None if it is switched off.

    Nothing in it stops the run: what fails in the warm-up fails, and is explained, in the run.

    Raises:
        KeyboardInterrupt: passed on.
    """
    if not _is_wanted(config):
        return None
    kind = _kind(config, device)
    if kind not in _done:
        began = time.perf_counter()
        failure = _train(config, device)
        seconds = round(time.perf_counter() - began, 3)
        _done[kind] = {"model": _MODEL, "steps": STEPS, "seconds": seconds, "failure": failure}
    return _done[kind]


def is_due(config: RunConfig, device: "Device") -> bool:
    """Return whether `warm_up_process` would train."""
    return _is_wanted(config) and _kind(config, device) not in _done


def _is_wanted(config: RunConfig) -> bool:
    return config.warmup_run and world_size() == 1 and config.sharding == "none"


def _kind(config: RunConfig, device: "Device") -> tuple[str, ...]:
    return (device.kind, device.precision, config.method.name, config.optimizer)


def _train(config: RunConfig, device: "Device") -> str | None:
    """Train a small model of its own; return why that failed, or None."""
    from lora_scaling.training.engine import RunFacts, execute
    from lora_scaling.training.model_cache import ModelCache

    models = ModelCache()
    try:
        with tempfile.TemporaryDirectory(prefix="lora-scaling-warm-up-") as folder:
            execute(
                _small(config),
                device,
                models,
                cast("Recording", _Unmeasured()),
                RunFacts(),
                folder=Path(folder),
                progress=lambda *_: raise_if_interrupted(),
            )
    except Exception as error:
        return one_line(error)
    finally:
        models.drop_base()
        device.synchronize()
        device.release_memory()
    return None


def _small(config: RunConfig) -> RunConfig:
    """Return the run's settings for a small model and few, short samples."""
    rows = min(config.batch_size, _MOST_ROWS)
    return dataclasses.replace(
        config,
        model=shipped_option(ModelConfig, "model", _MODEL),
        data=dataclasses.replace(shipped_option(DataConfig, "data", _DATA), tokens_per_sample=_TOKENS, tokens_cv=0.0),
        lora=dataclasses.replace(config.lora, r=min(config.lora.r, 8), target_modules="all-linear"),
        score=dataclasses.replace(config.score, name="none", tasks=()),
        samples=STEPS * rows,
        epochs=1,
        max_steps=None,
        batch_size=rows,
        gradient_accumulation=1,
        max_seq_len=min(config.max_seq_len, _LONGEST),
        eval_samples=min(config.eval_samples, rows),
        packing=False,
        torch_compile=False,
        save_adapter=False,
        resume="never",
        reuse=False,
    )


class _Unmeasured:
    """Stands in for a recording where nothing is measured."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        yield
