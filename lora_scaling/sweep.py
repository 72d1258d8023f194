"""A sweep: every combination of what is varied × replicates, shuffled, resumed, and summed up.

A Hydra sweeper, so that any Hydra launcher can carry the runs.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from . import console
from .config import RunConfig, friendly_hydra_errors, from_omegaconf, run_id
from .errors import RecordError, RunFailure
from .records import Record, is_finished, read_record, record_path


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a sweep: the overrides that make it, its configuration, its name and place."""

    overrides: tuple[str, ...]
    config: RunConfig
    run_id: str

    @property
    def finished(self) -> bool:
        config = self.config
        return config.on_existing == "skip" and is_finished(record_path(config.runs_dir, config.study, self.run_id))


class DesignSweeper(Sweeper):
    """Plans the runs of a sweep, has the launcher carry out what is not finished yet, and prints the outcome.

    Args (from `hydra.sweeper`):
        params: override → comma-separated levels; the command line wins over them.
        extra: further points, each a list of overrides on top of what the command line fixes.
        centre: overrides of a point that is repeated every `centre_every` runs to reveal drift; none if empty.
    """

    def __init__(
        self,
        params: DictConfig | dict[str, Any],
        extra: Sequence[Sequence[str]],
        centre: Sequence[str],
        centre_every: int,
    ) -> None:
        super().__init__()
        self.params = {str(key): value for key, value in params.items()}
        self.extra = [list(point) for point in extra]
        self.centre = list(centre)
        self.centre_every = centre_every
        self.config: DictConfig
        self.launcher: Launcher
        self.hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep.

        Raises:
            UserError: a point of it cannot be run; nothing has been started then.
            RunFailure: some runs did not finish; all others did.
        """
        runs = self.plan(arguments)
        todo = [run for run in runs if not run.finished]
        where = f"{runs[0].config.runs_dir}/{runs[0].config.study}"
        print(
            f"{len(runs)} runs in {where}: {len(runs) - len(todo)} finished before, {len(todo)} to do",
            flush=True,
        )
        try:
            with _watched(len(todo), in_process=isinstance(self.launcher, BasicLauncher)):
                self._launch(todo)
        finally:
            failed = _summarise(runs, where)
        if failed:
            raise RunFailure(f"{len(failed)} of {len(runs)} runs did not finish: {', '.join(failed)}")

    def plan(self, arguments: list[str]) -> list[Planned]:
        """All runs of the sweep in the order in which they are to be made, the same at every start."""
        with friendly_hydra_errors():
            parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
            fixed_and_swept = parser.parse_overrides([f"{k}={v}" for k, v in self.params.items()] + arguments)
            points = _combinations(fixed_and_swept, self.extra)
            first = self._compose(points[0])
            ordered = shuffled(points, replicates=first.replicates, seed=first.order_seed)
            ordered = with_centre(ordered, points[0], self.centre, self.centre_every, first.replicates)
            return list(self._planned(ordered))

    def _planned(self, ordered: Sequence[Sequence[str]]) -> Iterator[Planned]:
        seen: set[str] = set()
        for overrides in ordered:
            config = self._compose(overrides)
            name = run_id(config)
            if name in seen:  # e.g. several ranks of method=full, which has none
                continue
            overrides = [*overrides, f"order={len(seen)}"]
            seen.add(name)
            yield Planned(overrides=tuple(overrides), config=config, run_id=name)

    def _compose(self, overrides: Sequence[str]) -> RunConfig:
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        OmegaConf.set_struct(config, False)
        run = from_omegaconf(config)
        if run.model.shape is not None:
            run.tuning.trainable_params(run.model.shape)  # a rank or target that does not fit is found here
        return run

    def _launch(self, todo: Sequence[Planned]) -> None:
        if not todo:
            return
        for result in self.launcher.launch([run.overrides for run in todo], initial_job_idx=0):
            _ = result.return_value  # raises what the task could not record


def register_sweeper() -> None:
    """Make `hydra/sweeper=design` known. Hydra wants plugins in a namespace of its own: the name is put there."""
    Plugins.instance().class_name_to_class["hydra_plugins.lora_scaling.DesignSweeper"] = DesignSweeper


def _combinations(overrides: list[Override], extra: list[list[str]]) -> list[list[str]]:
    """The full factorial of the swept overrides, then the extra points on top of those that are fixed."""
    [points] = BasicSweeper.split_arguments(overrides, None)
    fixed = [f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in overrides if not o.is_sweep_override()]
    return [list(point) for point in points] + [[*fixed, *point] for point in extra]


def shuffled(points: Sequence[Sequence[str]], *, replicates: int, seed: int) -> list[list[str]]:
    """Replicates as blocks that each hold every point once, in an order drawn anew for each block."""
    ordered: list[list[str]] = []
    for replicate in range(replicates):
        block = [[*point, f"replicate={replicate}"] for point in points]
        random.Random(f"{seed}/{replicate}").shuffle(block)
        ordered += block
    return ordered


def with_centre(
    ordered: list[list[str]], first: Sequence[str], centre: Sequence[str], every: int, replicates: int
) -> list[list[str]]:
    """The order with a centre point at every `every`-th place, its replicates numbered after the design's own."""
    if not centre:
        return ordered
    swept = {text.partition("=")[0] for text in centre}
    fixed = [text for text in first if text.partition("=")[0] not in swept]
    numbers = itertools.count(replicates)
    result: list[list[str]] = []
    for place, run in enumerate(ordered):
        if place % every == 0:
            result.append([*fixed, *centre, f"replicate={next(numbers)}"])
        result.append(run)
    return result


@contextlib.contextmanager
def _watched(total: int, *, in_process: bool) -> Iterator[None]:
    """Let the runs of this process know how many there are; launchers with processes of their own cannot."""
    console.display = console.Display(total=total if in_process else None)
    yield


def _summarise(runs: Sequence[Planned], where: str) -> list[str]:
    """Print the closing table; return the names of runs that did not finish."""
    records: list[Record] = []
    failed: list[str] = []
    for run in runs:
        try:
            record = read_record(record_path(run.config.runs_dir, run.config.study, run.run_id))
        except RecordError:
            failed.append(f"{run.run_id} (not started)")
            continue
        if record["status"] == "ok":
            records.append(record)
        else:
            failed.append(f"{run.run_id} ({record['status']}: {record['error']})")
    if records:
        print(f"\n{console.table(records)}\n")
        print(f"Records: {where}\nAnalyse: python -m analysis report {where}", flush=True)
    return failed
