"""A launcher whose runs are tasks of Ray: `hydra/launcher=ray`.

`hydra-ray-launcher` asks for old releases of cloudpickle, and its sweep is lost with the first worker that dies. Here a
run whose worker dies is told and the others go on, and an interrupted sweep has its runs recorded.
"""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lora_scaling.errors import UserError
from lora_scaling.runs.hydra_jobs import PlannedLauncher, carry_out, job_config, prepare_process
from lora_scaling.signals import end_like_ctrl_c

_PATIENCE_S = 60  # of an interrupted sweep, for the recording of the runs underway


class RayLauncher(PlannedLauncher):
    """Carries the runs of a sweep as tasks of Ray.

    ray: what `ray.init` gets (`init`), and what each task asks for (`remote`).
    """

    def __init__(self, ray: Any) -> None:
        super().__init__()
        settings: Any = OmegaConf.to_container(ray, resolve=True) if OmegaConf.is_config(ray) else ray
        self.init: dict[str, Any] = {name: value for name, value in settings["init"].items() if value is not None}
        self.remote: dict[str, Any] = dict(settings["remote"])

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if importlib.util.find_spec("ray") is None:
            raise UserError("hydra.launcher: got ray, which is not installed; pip install 'lora-scaling[ray]'")

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Stay connected between the calls of `launch` inside, so that Ray keeps its workers."""
        ray = _ray()

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which Ray would send home
        if ray.is_initialized():
            yield
            return
        self._connect()
        try:
            yield
        finally:
            ray.shutdown()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Carry out the runs, and return what each left; nothing for one whose worker died: its record says so.

        Raises:
            UserError: there is no Ray at the address, or none of its nodes has what a run asks for.
            KeyboardInterrupt: this process or a run was interrupted; the runs that were underway are recorded.
        """
        with self.standing():
            return self._carry_out(job_overrides, initial_job_idx)

    def _connect(self) -> None:
        ray = _ray()

        # A Ray that is joined has its own resources.
        init = self.init if "address" not in self.init else {"address": self.init["address"]}
        try:
            ray.init(**{"logging_level": logging.ERROR, "include_dashboard": False, **init})
        except (ConnectionError, ValueError, RuntimeError) as error:
            address = self.init.get("address")
            raise UserError(
                f"hydra.launcher.ray.init.address: got {address}; Ray cannot be reached or started "
                f"({' '.join(str(error).split())[:200]}): start one with ray start --head, or leave the address out"
            ) from None

    def _carry_out(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        ray = _ray()

        asks = self._resources(ray.cluster_resources())
        # One that died is not tried again: its record would be written over.
        task: Any = ray.remote(max_retries=0, **asks)(_run)
        context = ray.put((self.hydra_context, self.task_function, self.config, list(sys.argv), os.getcwd()))
        names = [name for name, _ in self.planned] or [
            f"job {number}" for number in range(first, first + len(job_overrides))
        ]
        waiting = {
            task.remote(context, number, list(words)): name
            for (number, words), name in zip(enumerate(job_overrides, first), names, strict=True)
        }
        results: list[JobReturn] = []
        try:
            while waiting:
                [done], _ = ray.wait(list(waiting), num_returns=1)
                name = waiting.pop(done)
                try:
                    result = ray.get(done)
                except (ray.exceptions.TaskCancelledError, KeyboardInterrupt) as stop:
                    raise KeyboardInterrupt(str(stop)) from None
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except ray.exceptions.RayError as error:
                    why = " ".join(str(error).split())[:200]
                    self.endings[name] = f"its worker of Ray died ({type(error).__name__}: {why})"
                    print(f"{name}: {self.endings[name]}", flush=True)
                else:
                    results.append(result)
        except KeyboardInterrupt:
            for reference in waiting:
                ray.cancel(reference)
            with contextlib.suppress(KeyboardInterrupt):
                if waiting:
                    ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE_S)
            raise
        return results

    def _resources(self, there: Mapping[str, float]) -> dict[str, Any]:
        """Return what a run asks for.

        Raises:
            UserError: all of Ray together has less.
        """
        asks = dict(self.remote)
        if asks.get("num_gpus") is None:
            asks["num_gpus"] = 1 if there.get("GPU", 0) >= 1 and str(self.config.get("device")) != "cpu" else 0
        for name, kind in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if (asks.get(name) or 0) > there.get(kind, 0):
                has = there.get(kind, 0)
                raise UserError(
                    f"hydra.launcher.ray.remote.{name}: got {asks[name]}; Ray has {has:g} here, so no run would ever "
                    "start: ask for less"
                )
        return {name: value for name, value in asks.items() if value is not None}


def _ray() -> Any:
    """Import Ray, which is an extra."""
    return importlib.import_module("ray")


def _run(shared: Any, number: int, overrides: Sequence[str]) -> JobReturn:
    """Make one run, in a worker of Ray's."""
    context, task, sweep, command, folder = shared
    with contextlib.suppress(OSError):  # on another node it may not be there
        os.chdir(folder)
    sys.argv = list(command)  # of which the record says that it made the run
    end_like_ctrl_c()
    prepare_process()
    return carry_out(context, task, job_config(context, sweep, number, overrides))
