"""A launcher whose worker processes run on this machine: `hydra/launcher=workers`.

joblib's launcher kills its workers as soon as it is interrupted, and as soon as one of them dies; the energy that the
others have measured is then lost. Here each worker records its run before it ends, and one that dies takes no other
run with it.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lora_scaling.errors import UserError
from lora_scaling.runs.hydra_jobs import OwnLauncher, carry_out, job_config, prepare_process
from lora_scaling.signals import FROM_OUTSIDE, end_like_ctrl_c, end_with_parent, interrupted_once, uninterrupted

_context = multiprocessing.get_context("spawn")
_PATIENCE_S = 60  # of an interrupted sweep, for the recording of the runs underway


class WorkersLauncher(OwnLauncher):
    """Carries the runs of a sweep in `n_jobs` processes, each of which makes one run at a time.

    n_jobs: 1 or more; -1: one for each CPU core.
    """

    def __init__(self, n_jobs: int = 2) -> None:
        super().__init__()
        self.n_jobs = n_jobs
        self.workers: list[_Worker] = []
        self.stays = False

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Keep the workers between the calls of `launch` inside, so that each is one session of warm runs."""
        self.stays = True
        try:
            yield
        finally:
            self.stays = False
            with uninterrupted():
                _end(self.workers)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        n_jobs = self.n_jobs  # Hydra would wrap an error of __init__
        if type(n_jobs) is not int or (n_jobs < 1 and n_jobs != -1):
            allowed = "give a whole number of 1 or more, or -1 for one process for each CPU core"
            raise UserError(f"hydra.launcher.n_jobs: got {n_jobs}; {allowed}")
        if n_jobs == -1:
            self.n_jobs = os.cpu_count() or 1

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Carry out the runs, and return what each left; nothing for one whose worker died: its record says so.

        Raises:
            KeyboardInterrupt: this process or a worker was interrupted; the runs that were underway are recorded.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        todo = list(enumerate(job_overrides, initial_job_idx))
        results: dict[int, JobReturn] = {}
        workers = self.workers
        with interrupted_once():
            try:
                while todo or any(worker.job is not None for worker in workers):
                    if todo and (free := self._free_worker()):
                        number, overrides = todo.pop(0)
                        free.begin(number, job_config(self.hydra_context, self.config, number, overrides))
                        continue
                    for pipe in connection.wait([worker.pipe for worker in workers]):
                        [worker] = [worker for worker in workers if worker.pipe is pipe]
                        job, worker.job = worker.job, None
                        try:
                            result = worker.pipe.recv()
                        except EOFError:  # it has died
                            workers.remove(worker)
                            worker.process.join()
                            continue
                        if isinstance(result, KeyboardInterrupt):
                            raise result
                        if job is not None:
                            results[job] = result
            finally:
                if not self.stays:
                    with uninterrupted():
                        _end(workers)
        return [results[number] for number in sorted(results)]

    def _free_worker(self) -> "_Worker | None":
        """Return a worker without a run, started if there are fewer than `n_jobs`; None if all are busy."""
        workers = self.workers
        for worker in [worker for worker in workers if not worker.process.is_alive()]:
            if worker.job is None:  # ended since its last run
                workers.remove(worker)
        for worker in workers:
            if worker.job is None:
                return worker
        if len(workers) == self.n_jobs:
            return None
        workers.append(_Worker(self.hydra_context, self.task_function))
        return workers[-1]


class _Worker:
    """A worker process, the pipe to it, and the number of the job that it has."""

    def __init__(self, hydra_context: HydraContext, task_function: TaskFunction) -> None:
        self.job: int | None = None
        resource_tracker.ensure_running()  # when a first process starts, it would lift the block
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(
            target=_serve, args=(theirs, os.getpid(), hydra_context, task_function), name="worker", daemon=True
        )
        # It inherits the block, so that no signal ends it before it can handle one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
        try:
            self.process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def begin(self, number: int, config: DictConfig) -> None:
        self.job = number
        with contextlib.suppress(BrokenPipeError):  # it has died: reading from it tells so
            self.pipe.send(config)


def _end(workers: "list[_Worker]") -> None:
    """Have all workers end, those with a run after they have recorded it."""
    for worker in workers:
        worker.process.terminate()
    deadline_s = time.monotonic() + _PATIENCE_S
    for worker in workers:
        worker.process.join(max(0.0, deadline_s - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
    workers.clear()


def _serve(pipe: Connection, parent: int, hydra_context: HydraContext, task_function: TaskFunction) -> None:
    """Make the runs that the parent sends, one after the other, until it wants no more or one is interrupted."""
    end_with_parent(parent)
    end_like_ctrl_c()
    with contextlib.suppress(KeyboardInterrupt), interrupted_once():  # sent to the parent, or lost on the way to it
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_OUTSIDE)
            prepare_process()
            while True:
                pipe.send(carry_out(hydra_context, task_function, pipe.recv()))
        except KeyboardInterrupt as stop:
            with contextlib.suppress(OSError):
                pipe.send(stop)
        except (EOFError, BrokenPipeError):  # the parent is gone
            pass
        finally:  # an interpreter that winds down would print the traceback of a further signal
            signal.pthread_sigmask(signal.SIG_BLOCK, FROM_OUTSIDE)
