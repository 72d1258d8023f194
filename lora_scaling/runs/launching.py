"""Have a launcher of Hydra's carry out runs: which one is chosen, how long its jobs may take, and what runs expect."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.initialize import initialize_config_dir
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lora_scaling.config import RunConfig, friendly_hydra_errors, register_plugins
from lora_scaling.config.compose import check_launcher
from lora_scaling.config.sweep import PlannedRun
from lora_scaling.errors import UnwritableError, UserError
from lora_scaling.estimate import Estimate
from lora_scaling.estimate.sweeps import estimates_of
from lora_scaling.paths import config_dir
from lora_scaling.ranks import world_size
from lora_scaling.records import locked
from lora_scaling.runs.hydra_jobs import OwnLauncher, PlannedLauncher
from lora_scaling.runs.ray import RayLauncher
from lora_scaling.runs.slurm import SlurmLauncher
from lora_scaling.runs.workers import WorkersLauncher

# A job that is cut short has spent its energy for nothing; a limit that is too long only waits longer in the queue.
_LIMIT_MARGIN = 1.5
_LEAST_LIMIT_MIN = 10


def register_launchers() -> None:
    """Make our launchers known to Hydra, which wants plugins in a namespace of its own."""
    for plugin in (WorkersLauncher, SlurmLauncher, RayLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.lora_scaling.{plugin.__name__}"] = plugin


def compose_launch(words: Sequence[str]) -> tuple[HydraContext, DictConfig]:
    """Compose what a sweep of these settings would hand to its launcher.

    Raises:
        UserError: one of the words is no setting of a run or of the launcher.
    """
    register_plugins()
    register_launchers()
    GlobalHydra.instance().clear()
    with friendly_hydra_errors(), initialize_config_dir(str(config_dir()), job_name="lora_scaling", version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config(
            "config", list(words), run_mode=RunMode.MULTIRUN, from_shell=False, with_log_configuration=False
        )
        return HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)), config


def is_this_process(settings: DictConfig) -> bool:
    """Return whether the launcher of these settings makes the runs in this process, one after the other."""
    return str(settings["_target_"]).endswith("BasicLauncher")


def open_launcher(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    estimates: list[Estimate] | str,
    todo: Sequence[PlannedRun],
) -> Launcher:
    """Instantiate the chosen launcher, with our time limit for its jobs if they need one and have none."""
    settings = config.hydra.launcher
    if todo and settings.get("timeout_min", 0) is None:
        if settings["_target_"].endswith("SlurmLauncher"):
            _check_hardware_is_named(todo)
        limit = time_limit_min(estimates)
        print(
            f"Time limit of each job: {limit} min, from the estimate of the longest run "
            "(hydra.launcher.timeout_min=… sets another)",
            flush=True,
        )
        with open_dict(settings):
            settings["timeout_min"] = limit
    check_launcher(settings["_target_"])
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)


def time_limit_min(estimates: Sequence[Estimate] | str) -> int:
    """Compute the minutes that a job of one run may take: the upper end of the longest run's interval, with a margin.

    Raises:
        UserError: the time of a run is unknown.
    """
    times = [] if isinstance(estimates, str) else [run.time_s for run in estimates]
    if not times or None in times:
        raise UserError(
            "hydra.launcher.timeout_min: got null, and how long these runs take is unknown "
            "(lora-scaling estimate -m … says why); give hydra.launcher.timeout_min=MINUTES"
        )
    longest_s = max(time.high for time in times if time is not None)
    return max(_LEAST_LIMIT_MIN, math.ceil(_LIMIT_MARGIN * longest_s / 60))


def _check_hardware_is_named(todo: Sequence[PlannedRun]) -> None:
    """Raise if the runs' hardware is that of this machine, which only hands them to others."""
    if any(run.config.hardware.kind == "auto" for run in todo):
        raise UserError(
            "hydra.launcher.timeout_min: got null with hardware=auto, which is this machine and not the cluster's; "
            "name the nodes' GPU (hardware=a100-80gb, h100-sxm …), or give hydra.launcher.timeout_min=MINUTES"
        )


def runs_elsewhere(launcher: DictConfig) -> bool:
    """Return whether the jobs run on other machines, judging by the launcher's settings."""
    name = launcher["_target_"].rpartition(".")[2]
    cluster = name == "RayLauncher" and OmegaConf.select(launcher, "ray.init.address") is not None
    return cluster or name in ("SlurmLauncher", "RayAWSLauncher")


def launch(launcher: Launcher, todo: Sequence[PlannedRun]) -> None:
    """Have the launcher carry out the runs; `endings` tells what it knows of those whose records do not say it."""
    if not todo:
        return
    if isinstance(launcher, PlannedLauncher):
        launcher.planned = [(run.run_id, run.record_path) for run in todo]
    for result in launcher.launch([run.overrides for run in todo], initial_job_idx=0):
        with contextlib.redirect_stderr(io.StringIO()):  # on which Hydra prints a line of its own
            _ = result.return_value  # raises what the task could not record


def endings(launcher: Launcher) -> dict[str, str]:
    """Return, by name, what the launcher knows of the end of runs whose records do not say it."""
    return launcher.endings if isinstance(launcher, PlannedLauncher) else {}


def standing(launcher: Launcher) -> contextlib.AbstractContextManager[None]:
    """Keep the launcher's processes between the calls of `launch` inside, where it is one of ours."""
    return launcher.standing() if isinstance(launcher, OwnLauncher) else contextlib.nullcontext()


def why_unfinished(run: PlannedRun, record: Mapping[str, Any] | None, ending: str | None) -> str:
    """Write which run did not finish, and why, given its record, if it has one, and what its launcher knows."""
    known = f": {ending}" if ending else ""
    if record is None:
        return f"{run.run_id} (not started{known})"
    if is_underway(run.record_path.parent):
        return f"{run.run_id} (another process is running it)"
    return f"{run.run_id} ({record['status']}{known or ': ' + str(record.get('error'))})"


def try_estimates(runs: Sequence[RunConfig], *, one_process: bool, elsewhere: bool = False) -> list[Estimate] | str:
    """Estimate each run by priors, or return why that is unknown; later runs of one process find the model set up.

    elsewhere: the runs do not use this machine's device.
    """
    if elsewhere and any(run.hardware.kind == "auto" for run in runs):
        return (
            "hardware=auto is this machine, and the jobs run on others; name their device, such as hardware=a100-80gb"
        )
    try:
        return estimates_of([_on_all_devices(run) for run in runs], one_process=one_process)
    except UserError as error:  # a shape or data set that only loading reveals is no reason not to run
        return str(error)


def _on_all_devices(run: RunConfig) -> RunConfig:
    """Return the run on the devices of all processes of this launch, unless it states their number."""
    if world_size() == 1 or run.hardware.count > 1:
        return run
    return dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, count=world_size()))


def is_underway(folder: Path) -> bool:
    """Return whether another process is making the run of this folder."""
    try:
        with locked(folder) as free:
            return not free
    except UnwritableError:  # then nobody can
        return False
