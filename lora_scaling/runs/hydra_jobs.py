"""What a launcher's own processes do of Hydra's part: compose the configuration of a run, and carry the run out."""

from collections.abc import Sequence

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


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
