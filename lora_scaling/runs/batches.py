"""The runs of an adaptive study that a launcher of Hydra's makes, a batch at a time."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lora_scaling.config import RunConfig, run_id
from lora_scaling.config.sweep import PlannedRun
from lora_scaling.errors import RecordError, RunFailure
from lora_scaling.estimate import Estimate
from lora_scaling.records import read_record
from lora_scaling.runs.launching import (
    compose_launch,
    endings,
    is_this_process,
    launch,
    open_launcher,
    runs_elsewhere,
    standing,
    try_estimates,
    why_unfinished,
)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A launcher, and the settings that all runs of the study have."""

    launcher: Launcher
    words: tuple[str, ...]

    def make(self, configs: Sequence[RunConfig]) -> list[Mapping[str, Any]]:
        """Have the launcher make the runs, and return their records.

        Raises:
            RunFailure: some did not finish; all others did, and have been recorded.
            KeyboardInterrupt: passed on, after the runs that were under way are recorded.
        """
        runs = [
            PlannedRun(overrides=self._overrides(config), config=config, run_id=run_id(config)) for config in configs
        ]
        launch(self.launcher, runs)
        records: list[Mapping[str, Any]] = []
        failed: list[str] = []
        for run in runs:
            record = _record_of(run)
            if record is not None and record["status"] == "ok":
                records.append(record)
            else:
                failed.append(why_unfinished(run, record, endings(self.launcher).get(run.run_id)))
        if failed:
            raise RunFailure(
                f"{len(failed)} of the {len(runs)} runs of this batch did not finish: {'; '.join(failed)}; "
                "the same command makes them again"
            )
        return records

    def _overrides(self, config: RunConfig) -> tuple[str, ...]:
        """Write the settings of a run, as a sweep would hand them to the launcher."""
        of_run = ("samples", "epochs", "max_steps", "replicate", "order")
        values = (getattr(config, name) for name in of_run)
        return (
            *self.words,
            *(f"{name}={'null' if value is None else value}" for name, value in zip(of_run, values, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class ChosenLauncher:
    """The launcher that the settings of a study choose."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    words: tuple[str, ...]

    def estimates(self, runs: Sequence[RunConfig]) -> list[Estimate] | str:
        """Estimate each run by priors, or return why that is unknown."""
        elsewhere = runs_elsewhere(self.config.hydra.launcher)
        return try_estimates(runs, one_process=False, elsewhere=elsewhere)

    @contextlib.contextmanager
    def opened(self, largest: RunConfig) -> Iterator[Batches]:
        """Open the launcher, with a time limit for the study's largest run, and keep its processes until the end."""
        planned = PlannedRun(overrides=(), config=largest, run_id=run_id(largest))
        launcher = open_launcher(self.context, self.task, self.config, self.estimates([largest]), [planned])
        with standing(launcher):
            yield Batches(launcher=launcher, words=self.words)


def chosen_launcher(
    words: Sequence[str], launcher_words: Sequence[str], task: TaskFunction | None
) -> ChosenLauncher | None:
    """Return the launcher that these settings choose; None if runs are to be made in this process.

    words: the settings of all runs. launcher_words: those that choose and set the launcher; a file of settings in
    `words` may do so as well. task: makes one run, in another process.

    Raises:
        UserError: a word is no setting of a launcher, or its package is not installed.
    """
    files = any(word.lstrip("+").startswith("experiment=") for word in words)
    if task is None or not (launcher_words or files):
        return None
    context, config = compose_launch([*words, *launcher_words])
    if is_this_process(config.hydra.launcher):
        return None
    return ChosenLauncher(context=context, task=task, config=config, words=tuple(words))


def _record_of(run: PlannedRun) -> Mapping[str, Any] | None:
    try:
        return read_record(run.record_path)
    except RecordError:
        return None
