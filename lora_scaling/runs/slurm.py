"""A launcher whose jobs are those of a Slurm cluster: `hydra/launcher=slurm`.

The runs are one job array (several where the cluster allows no array as long). What was handed in lies beside the
study, so that the same command finds its jobs again in Slurm's queue after this process has ended; a job that leaves
the queue is noticed within seconds, whatever became of it.
"""

import contextlib
import json
import os
import pickle
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lora_scaling.config import from_omegaconf, run_id
from lora_scaling.errors import RecordError, UserError
from lora_scaling.records import locked, read_record, record_path
from lora_scaling.records.files import unwritable
from lora_scaling.runs import slurm_queue
from lora_scaling.runs.hydra_jobs import PlannedLauncher, job_config
from lora_scaling.runs.slurm_energy import add_what_sacct_says
from lora_scaling.text import counted, printable

JOBS_NAME = "jobs.pickle"
NAMES_NAME = "runs.json"
_SCRIPT_NAME = "job.sh"
_EVERY_S, _LATER_S, _SOON_S = 2.0, 5.0, 60.0  # between two looks at the queue: at first, and after the first minute
_SURE = 2  # looks that must agree that a job has ended
_SURE_OF_REQUEUED = 6  # the same where Slurm ended it and may start it again: meanwhile it may seem to have ended
_SILENCE_S = 60.0  # without an answer of Slurm before that is said
# Settings that are flags of sbatch of the same name, with - for _.
_FLAGS = (
    "partition", "account", "nodes", "cpus_per_task", "cpus_per_gpu", "gpus_per_node", "gpus_per_task", "mem_per_gpu",
    "mem_per_cpu", "qos", "comment", "constraint", "exclude", "gres",
)  # fmt: skip


@dataclass(frozen=True)
class Jobs:
    """What a job needs to make its run, and whose command it is."""

    context: HydraContext
    task: TaskFunction
    sweep: DictConfig
    overrides: Sequence[Sequence[str]]
    command: Sequence[str]
    requeues: int


@dataclass
class _Watched:
    """A job that is waited for."""

    name: str  # of its run
    folder: Path
    looks: int = 0  # in succession at which it had ended
    last: slurm_queue.QueuedJob | None = None


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """The settings of `conf/hydra/launcher/slurm.yaml`, whose comments explain them."""

    folder: str
    name: str
    timeout_min: int
    array_parallelism: int = 8
    max_num_timeout: int = 0
    signal_delay_s: int = 60
    stderr_to_stdout: bool = False
    mem_gb: float | None = None
    nodes: int | None = 1
    tasks_per_node: int | None = 1
    partition: str | None = None
    account: str | None = None
    cpus_per_task: int | None = None
    cpus_per_gpu: int | None = None
    gpus_per_node: int | str | None = None
    gpus_per_task: int | str | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    additional_parameters: Mapping[str, Any] | None = None
    setup: Sequence[str] | None = None


# Settings that are numbers, with the least that each may be.
_NUMBERS = {
    "timeout_min": 1, "array_parallelism": 1, "max_num_timeout": 0, "signal_delay_s": 1, "cpus_per_task": 1,
    "cpus_per_gpu": 1,
}  # fmt: skip


def _check_values(settings: SlurmSettings) -> None:
    """Raise a UserError for a number that is none, and for text that would end the line of the script it is in."""
    for name, least in _NUMBERS.items():
        value = getattr(settings, name)
        if value is not None and (type(value) is not int or value < least):
            raise UserError(
                f"hydra.launcher.{name}: got {printable(str(value))}; give a whole number of {least} or more"
            )
    memory = settings.mem_gb
    if memory is not None and (type(memory) not in (int, float) or not 0 <= memory < float("inf")):
        raise UserError(
            f"hydra.launcher.mem_gb: got {printable(str(memory))}; give a number of GB, or 0 for all of a node's"
        )
    texts = {**vars(settings), **{str(key): value for key, value in (settings.additional_parameters or {}).items()}}
    for name, value in texts.items():
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"hydra.launcher.{name}: got {value!a}; give it on one line, without control characters")


class SlurmLauncher(PlannedLauncher):
    """Hands the runs of a sweep to Slurm, waits for them, and says why one does not start or has ended."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = SlurmSettings(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        for setting in ("tasks_per_node", "nodes"):
            value = getattr(self.settings, setting)
            if value not in (None, 1):  # Hydra would wrap an error of __init__
                raise UserError(
                    f"hydra.launcher.{setting}: got {value}; each job makes its run in one process: for several, start "
                    "torchrun with sbatch (docs/clusters.md)"
                )
        _check_values(self.settings)
        slurm_queue.check_is_cluster()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hand in the runs that no job of Slurm's queue makes already, and wait for all of them.

        Raises:
            UserError: Slurm takes no job of this kind, or the folder cannot be written.
            KeyboardInterrupt: this process was interrupted; the jobs go on.
        """
        runs = dict(self.planned) or dict(self._names(job_overrides, initial_job_idx))
        place = Path(self.settings.folder).absolute()
        with locked(place, wait=True):  # or two commands would hand in the same runs
            watched = _already_handed_in(place, set(runs))
            taken = {job.name for job in watched.values()}
            if watched:
                print(f"Slurm: {counted(len(watched), 'run')} of {_numbers(watched)} found in the queue", flush=True)
            todo = [(name, words) for name, words in zip(runs, job_overrides, strict=True) if name not in taken]
            previous: str | None = None
            longest = slurm_queue.longest_array()
            for start in range(0, len(todo), longest):
                part = todo[start : start + longest]
                previous, folder = self._hand_in(place, part, after=previous)
                for index, (name, _) in enumerate(part):
                    watched[f"{previous}_{index}"] = _Watched(name, folder)
                print(f"Slurm: job {previous}, {counted(len(part), 'run')}", flush=True)
        names = [job.name for job in watched.values()]
        try:
            self._wait(watched, runs)
        except KeyboardInterrupt:
            left = _numbers(watched)
            print(f"Slurm: {left} goes on; the same command waits for it again, scancel {left[4:]} ends it", flush=True)
            raise
        add_what_sacct_says(runs[name] for name in names)
        return []

    def _names(self, job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[tuple[str, Path]]:
        """Name the runs where the sweeper has not."""
        for number, words in enumerate(job_overrides, first):
            run = from_omegaconf(job_config(self.hydra_context, self.config, number, words))
            yield run_id(run), record_path(run.runs_dir, run.study, run_id(run))

    def _hand_in(self, place: Path, runs: Sequence[tuple[str, Sequence[str]]], after: str | None) -> tuple[str, Path]:
        """Write down what the jobs need, and submit them as an array; return its number and the folder."""
        jobs = Jobs(
            context=self.hydra_context,
            task=self.task_function,
            sweep=self.config,
            overrides=[list(words) for _, words in runs],
            command=list(sys.argv),
            requeues=self.settings.max_num_timeout,
        )
        try:
            folder = Path(tempfile.mkdtemp(dir=place, prefix=time.strftime("%Y%m%dT%H%M%S-", time.gmtime())))
            (folder / JOBS_NAME).write_bytes(pickle.dumps(jobs))
            (folder / NAMES_NAME).write_text(json.dumps([name for name, _ in runs]), encoding="utf-8")
            script = folder / _SCRIPT_NAME
            script.write_text(self.script(folder, len(runs), after), encoding="utf-8")
        except OSError as error:
            raise unwritable(place, error) from None
        try:
            return slurm_queue.submit(script, vars(self.settings)), folder
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def script(self, folder: Path, runs: int, after: str | None = None) -> str:
        """Write the script of an array of so many runs, which waits for another array if one is named."""
        settings = self.settings
        limit_s = 60 * settings.timeout_min if isinstance(settings.timeout_min, int) else None
        delay_s = settings.signal_delay_s if limit_s is None else min(settings.signal_delay_s, limit_s // 10)
        output = str(folder).replace("%", "%%")  # which begins a pattern of Slurm's
        flags: dict[str, Any] = {
            "job-name": settings.name,
            "time": settings.timeout_min,
            "array": f"0-{runs - 1}%{min(runs, settings.array_parallelism)}",
            "output": f"{output}/%a.out",
            "error": None if settings.stderr_to_stdout else f"{output}/%a.err",
            "open-mode": "append",  # a job that is requeued keeps what it wrote before
            "signal": f"B:TERM@{delay_s}",  # for its record; from Slurm's own signal to the end pass KillWait seconds
            "ntasks-per-node": settings.tasks_per_node,
            "mem": None if settings.mem_gb is None else f"{round(1024 * settings.mem_gb)}M",
            "dependency": None if after is None else f"afterany:{after}",
        }
        flags |= {name.replace("_", "-"): getattr(settings, name) for name in _FLAGS}
        flags |= {str(key): value for key, value in (settings.additional_parameters or {}).items()}
        program = shlex.join([sys.executable, "-u", "-m", "lora_scaling.runs.slurm_job", str(folder)])
        lines = [
            _flag(name, flags[name]) for name in sorted(flags) if flags[name] is not None and flags[name] is not False
        ]
        return "\n".join(["#!/bin/bash", *lines, *(settings.setup or ()), f"exec {program}", ""])

    def _wait(self, watched: dict[str, _Watched], runs: Mapping[str, Path]) -> None:
        """Wait until all jobs have left the queue, and print what becomes of each; what has ended leaves `watched`."""
        began, answered, silent = time.monotonic(), time.monotonic(), False
        said: set[str] = set()
        while watched:
            now = time.monotonic()
            queue = slurm_queue.queue()
            if queue is None:
                if now - answered > _SILENCE_S and not silent:
                    print("Slurm: squeue gives no answer; it is asked on, and jobs that run go on", flush=True)
                    silent = True
            else:
                answered, silent = now, False
                for number, job in list(watched.items()):
                    seen = queue.get(number)
                    job.last = seen or job.last
                    gone = seen is None or seen.state in slurm_queue.ENDED
                    job.looks = job.looks + 1 if gone else 0
                    sure = job.looks >= _SURE and not _may_be_requeued(runs[job.name])
                    if sure or job.looks >= _SURE_OF_REQUEUED:
                        del watched[number]
                        self._note_end(number, job, runs[job.name])
                for line in _waiting_lines(watched, queue, vars(self.settings)):
                    if line not in said:
                        print(line, flush=True)
                        said.add(line)
            if watched:
                time.sleep(_EVERY_S if now - began < _SOON_S else _LATER_S)

    def _note_end(self, number: str, job: _Watched, path: Path) -> None:
        """Print what became of a run, and keep what Slurm says of one whose record does not say it."""
        from lora_scaling.runs.progress import describe
        from lora_scaling.runs.run import RunOutcome

        with contextlib.suppress(OSError):  # a shared file system looks anew for a folder that is listed
            os.listdir(path.parent)
        state = job.last.state if job.last is not None else "gone"
        record, unreadable = None, ""
        try:
            record = dict(read_record(path))
        except RecordError as error:
            unreadable = f", and left a record that is not read: {error}" if path.exists() else ""
        if record is not None and (record["status"] != "interrupted" or record.get("finished_at")):
            print(printable(describe(RunOutcome(path=path, record=record))), flush=True)
            return
        line = _last_line(
            job.folder / f"{number.partition('_')[2]}.{'out' if self.settings.stderr_to_stdout else 'err'}"
        )
        ending = f"Slurm ended job {number}: {state}" if state != "gone" else f"job {number} left Slurm's queue"
        if state == "CANCELLED" and record is None:
            ending = f"Slurm's job {number} was cancelled before it began"
        self.endings[job.name] = ending + unreadable + (f"; its last words: {line}" if line else "")
        print(f"{job.name}: {self.endings[job.name]}", flush=True)


def _may_be_requeued(path: Path) -> bool:
    """Return whether the record says that Slurm ended the run before its limit, after which the job may start again."""
    try:
        record = read_record(path)
    except RecordError:
        return False
    return record["status"] == "interrupted" and str(record.get("error")).startswith(slurm_queue.BEFORE_LIMIT)


def _flag(name: str, value: Any) -> str:
    return f"#SBATCH --{name}" if value is True or value == "" else f"#SBATCH --{name}={shlex.quote(str(value))}"


def _last_line(path: Path) -> str:
    """Return the last line that a job wrote, for a sentence."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace")[-4000:].split("\n")
    except OSError:
        return ""
    written = [line.strip() for line in lines if line.strip()]
    return printable(written[-1][:300]) if written else ""


def _already_handed_in(place: Path, names: set[str]) -> dict[str, _Watched]:
    """Find jobs of Slurm's queue that make one of these runs, handed in by an earlier process for the same folder."""
    found: dict[str, _Watched] = {}
    taken: set[str] = set()
    for number, job in (slurm_queue.queue() or {}).items():
        folder = Path(job.script).parent
        if job.state in slurm_queue.ENDED or folder.parent != place:
            continue
        with contextlib.suppress(OSError, ValueError, IndexError, TypeError):
            name = json.loads((folder / NAMES_NAME).read_text(encoding="utf-8"))[int(number.partition("_")[2])]
            if name in names and name not in taken:
                found[number] = _Watched(name, folder, last=job)
                taken.add(name)
    return found


def _waiting_lines(
    watched: Mapping[str, _Watched], queue: Mapping[str, slurm_queue.QueuedJob], settings: Mapping[str, Any]
) -> list[str]:
    """Write a line for each reason for which jobs wait that should be in nobody's way."""
    reasons: Counter[tuple[str, str]] = Counter()
    for number in watched:
        job = queue.get(number)
        if job is not None and job.state == "PENDING":
            reasons[job.reason, number.partition("_")[0]] += 1
    lines = [slurm_queue.why_it_waits(reason, jobs, number, settings) for (reason, number), jobs in reasons.items()]
    return [line for line in lines if line is not None]


def _numbers(watched: Mapping[str, object]) -> str:
    """Name the arrays that these jobs are of."""
    return "job " + " ".join(dict.fromkeys(number.partition("_")[0] for number in watched))
