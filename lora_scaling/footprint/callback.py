"""Measure a transformers Trainer, or a TRL SFTTrainer, by a callback."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, Unpack, cast

from transformers import TrainerCallback

from lora_scaling.energy import EnergyAccount, MeteringSettings, combine, settings_for_rank
from lora_scaling.footprint.block import Facts, Footprint, check_facts, distributed, never_raise

Hook = TypeVar("Hook", bound=Callable[..., Any])


def _hook(function: Hook) -> Hook:
    """Wrap a callback method so that no failure of ours leaves it."""

    @functools.wraps(function)
    def guarded(self: FootprintCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with never_raise(f"{function.__name__} failed"):
            function(self, args, state, control, **kwargs)

    return cast(Hook, guarded)


class FootprintCallback(TrainerCallback):
    """Measures `trainer.train()`, and writes a record of it."""

    def __init__(
        self,
        name: str = "trainer",
        *,
        study: str = "footprint",
        runs_dir: str | Path = "runs",
        settings: MeteringSettings | None = None,
        predict: bool = False,
        zone: str | None = None,
        **facts: Unpack[Facts],
    ) -> None:
        """Take the options of `Footprint`; facts that are given take precedence over what the Trainer knows.

        predict: print what the whole training will take and emit, after its first steps and a tenth of it.
        zone: the grid of that prediction, such as DK1; None: the mean of the world. Raises UserError for a fact of an
        unknown name.
        """
        check_facts(facts)
        self.name, self.facts = name, facts
        self.study, self.runs_dir, self.settings = study, runs_dir, settings
        self.predict, self.zone = predict, zone
        self._forecast: _Forecast | None = None
        self.footprint: Footprint | None = None
        self._before = (0, 0.0, 0.0, 0)
        self._in_eval = False

    @_hook
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._abandon()
        settings, world = self.settings, int(getattr(args, "world_size", 1))
        if world > 1:
            local_world = int(os.environ.get("LOCAL_WORLD_SIZE", world))
            settings = settings_for_rank(settings or MeteringSettings(), int(args.local_process_index), local_world)
        writes = bool(getattr(state, "is_world_process_zero", True))
        self.footprint = Footprint(
            self.name, study=self.study, runs_dir=self.runs_dir, settings=settings, writes=writes, **self.facts
        )
        self._before = _progress(state)
        self._describe(self.footprint, args, kwargs)
        atexit.register(self._abandon)
        self.footprint.open(with_ranks=True)
        if self.predict and writes:
            self._forecast = _Forecast(self.footprint, int(state.max_steps), int(state.global_step), self.zone)

    @_hook
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._forecast is not None and not self._in_eval:
            self._forecast.step(int(state.global_step))

    @_hook
    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.footprint is not None and not self._in_eval:
            self._in_eval = True
            self.footprint.switch("eval")

    @_hook
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.footprint is not None and self._in_eval:
            self._in_eval = False
            self.footprint.switch("train")

    @_hook
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mine, self.footprint, self._forecast = self.footprint, None, None
        atexit.unregister(self._abandon)
        account = _of_all_ranks(mine.measure() if mine is not None else None)
        if mine is None:
            return
        mine.account = account
        losses = [entry["train_loss"] for entry in state.log_history if "train_loss" in entry]
        mine.note("training", train_loss=losses[-1] if losses else None)
        # Work before a resumed checkpoint was shown, and paid for, earlier.
        steps, epochs, flops, tokens = (now - then for now, then in zip(_progress(state), self._before, strict=True))
        samples = mine.record["config"].get("samples")
        mine.note("work", steps=steps, tokens_seen=tokens or None, flops=flops or None)
        mine.note("work", samples_seen=None if samples is None else round(samples * epochs))
        if args.max_steps > 0 and "epochs" not in self.facts:  # then the number of steps was given instead
            mine.note("config", epochs=epochs)
        mine.close()

    def _abandon(self) -> None:
        """Close after training that ended without a call: an exception the caller caught, or the end of the process."""
        left, self.footprint, self._forecast = self.footprint, None, None
        self._in_eval = False
        if left is not None:
            left.close(getattr(sys, "last_value", None) or RuntimeError("training did not reach its end"))

    def _describe(self, made: Footprint, args: Any, parts: dict[str, Any]) -> None:
        """Note what the Trainer knows; options given to the callback take precedence."""
        model, loader = parts.get("model"), parts.get("train_dataloader")
        known: dict[str, Any] = {}
        with contextlib.suppress(Exception):
            known["samples"] = len(loader.dataset)  # type: ignore[union-attr]
        with contextlib.suppress(Exception):
            sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]  # type: ignore[union-attr]
            trained = sum(n for n, trains in sizes if trains)
            made.note("model", name=type(model).__name__, params=sum(n for n, _ in sizes))
            made.note("work", trainable_params=trained)
            made.note("model", trainable_params=trained)
        known |= {
            "epochs": float(args.num_train_epochs),
            "batch_size": int(args.per_device_train_batch_size),
            "gradient_accumulation": int(args.gradient_accumulation_steps),
            "gradient_checkpointing": bool(args.gradient_checkpointing),
            "seed": int(args.seed),
        }
        made.note("config", **{key: value for key, value in known.items() if key not in self.facts})


class _Forecast:
    """Says what a training will take and emit: after its first steps, and once more after a tenth of them."""

    def __init__(self, footprint: Footprint, steps: int, before: int, zone: str | None) -> None:
        from lora_scaling.estimate.outlook import Outlook
        from lora_scaling.grid import static_intensity

        self._outlook, self._footprint = Outlook(), footprint
        self._steps, self._before = steps - before, before  # steps before a checkpoint were paid for earlier
        self._intensity = static_intensity(zone)
        self._said = 0

    def step(self, step: int) -> None:
        done = step - self._before
        self._outlook.note(done, self._footprint.seconds)
        early = self._said == 1 and done < self._steps / 10
        if early or self._said == 2 or self._outlook.whole(self._steps) is None:
            return
        whole = self._outlook.whole(self._steps, self._footprint.mean_power_w())
        if whole is not None:
            place = f"{self._intensity.place}, a yearly mean"
            print(f"lora-scaling: {whole.sentence(self._intensity.g_per_kwh)} ({place})", file=sys.stderr, flush=True)
        self._said = 2 if done >= self._steps / 10 else 1


def _of_all_ranks(account: EnergyAccount | None) -> EnergyAccount | None:
    """Combine the measurements of all ranks. Every rank must call this, or the others would wait for it."""
    ranks = distributed()
    if ranks is None:
        return account
    gathered: list[EnergyAccount | None] = [None] * ranks.get_world_size()
    ranks.all_gather_object(gathered, account)
    known = [each for each in gathered if each is not None]
    return combine(known) if known else None


def _progress(state: Any) -> tuple[int, float, float, int]:
    """Return the steps, epochs, FLOPs and tokens a Trainer has done, including those before a checkpoint."""
    tokens = getattr(state, "num_input_tokens_seen", 0) or 0
    return state.global_step, float(state.epoch or 0), float(state.total_flos or 0), tokens
