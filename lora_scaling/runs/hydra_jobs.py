"""What all our launchers take from Hydra, and do of its part in processes of their own: compose a run, carry it out."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class HydraPlugin:
    """The part of a launcher or sweeper that keeps what Hydra hands to it."""

    def __init__(self) -> None:
        super().__init__()
        self.config: DictConfig
        self.task_function: TaskFunction
        self.hydra_context: HydraContext

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config


class OwnLauncher(HydraPlugin, Launcher):
    """A launcher of this program."""

    def standing(self) -> contextlib.AbstractContextManager[None]:
        """Keep the launcher's processes, if it has any, between the calls of `launch` inside."""
        return contextlib.nullcontext()


class PlannedLauncher(OwnLauncher):
    """A launcher whose runs end out of sight of the sweep.

    planned: set by the sweep: the name of each run that `launch` will be given, and the path of its record.
    endings: afterwards, what is known of how the runs ended whose records do not say it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.planned: Sequence[tuple[str, Path]] = ()
        self.endings: dict[str, str] = {}


def job_config(context: HydraContext, sweep: DictConfig, number: int, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of one job of a sweep."""
    config = context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    return config


def prepare_process() -> None:
    """Make a process ready for `carry_out`, as Hydra does in its own."""
    version.setbase("1.3")
    setup_globals()


def carry_out(context: HydraContext, task: TaskFunction, config: DictConfig) -> JobReturn:
    """Call the task with a job's configuration, in this process."""
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
