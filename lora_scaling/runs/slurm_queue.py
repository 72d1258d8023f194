"""Ask Slurm: hand in an array of jobs, look at the queue, and put what it says into a sentence.

Only `sbatch`, `squeue` and `scontrol` are asked: many clusters keep no accounts, so that `sacct` has no answer.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_scaling.errors import UserError
from lora_scaling.text import counted, printable

_ANSWER_S = 60  # a busy controller takes seconds
_NEAR_S = 180  # before the limit: the warning comes that early at the most, with the usual delay of 60 s
LIMIT, BEFORE_LIMIT = "Slurm's time limit", "Slurm ended job"
"""How the sentences begin that name it, and that say that a job ended before it."""
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip
"""States that a job does not leave, unless it is requeued."""
_USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "Dependency", "BeginTime", "Prolog", "Cleaning")
_SIZE = (
    "gres", "gpus_per_node", "gpus_per_task", "cpus_per_task", "cpus_per_gpu", "mem_gb", "mem_per_cpu", "mem_per_gpu",
    "nodes",
)  # fmt: skip
_SHOW_PARTITIONS = "sinfo -o '%P %l %c %m %G' lists the partitions with their time limits, cores, memory in MB and GPUs"

# What sbatch writes when it refuses a job, as a part of its text, and the settings that ask for it.
_REFUSED_BECAUSE: dict[str, tuple[str, ...]] = {
    "generic resource": ("gpus_per_node", "gres"),
    "account": ("account", "partition"),
    "partition": ("partition",),
    "qos": ("qos",),
    "node configuration": _SIZE,
    "processors": ("cpus_per_task",),
    "emory": ("mem_gb",),
    "time limit": ("timeout_min",),
    "feature": ("constraint",),
    "node name": ("exclude",),
}
# Flags of sbatch whose settings have other names.
_SETTING_OF_FLAG = {
    "time": "timeout_min", "mem": "mem_gb", "job-name": "name", "array": "array_parallelism",
    "signal": "signal_delay_s", "ntasks-per-node": "tasks_per_node",
}  # fmt: skip
# Why a job waits that may never start, as `squeue` names it, and the settings that ask for it.
_WAITS_BECAUSE: dict[str, tuple[str, ...]] = {
    "PartitionTimeLimit": ("timeout_min", "partition"),
    "PartitionNodeLimit": ("nodes", "partition"),
    "PartitionConfig": (*_SIZE, "timeout_min", "partition"),
    "BadConstraints": ("constraint", *_SIZE),
    "InvalidAccount": ("account",),
    "InvalidQOS": ("qos",),
}


@dataclass(frozen=True)
class QueuedJob:
    """A job of an array as `squeue` shows it. `script` is the path of what was handed in."""

    state: str
    reason: str
    script: str


def check_is_cluster() -> None:
    """Raise a UserError where there is no Slurm to hand jobs to."""
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise UserError(
                f"hydra.launcher: got slurm, but {program} is not found here; start the sweep on a node of the cluster "
                "that hands in jobs, or use hydra/launcher=workers on this machine"
            )


def submit(script: Path, settings: Mapping[str, Any]) -> str:
    """Hand in the script and return the number of the job.

    Raises:
        UserError: Slurm refuses it; the text has its words and the settings of hydra.launcher that it is about.
    """
    try:
        run = _slurm("sbatch", str(script))
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"hydra.launcher: got slurm, and sbatch cannot be asked ({error}); try again later") from None
    if run.returncode == 0 and (number := re.search(r"job (\d+)", run.stdout)):
        return number[1]
    said = [re.sub(r"^sbatch: (error: )?", "", line.strip()) for line in (run.stderr or run.stdout).splitlines()]
    words = printable("; ".join(filter(None, said))[:500]) or "no reason is given"
    raise UserError(refusal(words, settings))


def refusal(words: str, settings: Mapping[str, Any]) -> str:
    """Write why Slurm does not take the jobs, and which settings to change."""
    about = next((names for part, names in _REFUSED_BECAUSE.items() if part in words), ())
    if flag := re.search(r"--([a-z]+(?:-[a-z]+)*)", words.partition("Try ")[0]):
        about = (_SETTING_OF_FLAG.get(flag[1], flag[1].replace("-", "_")),)
    given = [name for name in about if settings.get(name) is not None]
    if further := _further_flag(words, settings.get("additional_parameters") or {}):
        return (
            f"hydra.launcher.additional_parameters: got {printable(further)}; sbatch refuses the jobs ({words}): "
            f"give a value that sbatch knows, or leave it out"
        )
    if not given:
        return f"hydra.launcher: got slurm; sbatch refuses the jobs ({words}): change the settings of hydra.launcher"
    fields = ", ".join(f"hydra.launcher.{name}" for name in given)
    values = ", ".join(str(settings[name]) for name in given)
    none = f", or {fields.partition(', ')[0]}=null to ask for none" if given[0] in ("gpus_per_node", "gres") else ""
    remedy = f"give what the cluster has{none} ({_SHOW_PARTITIONS})"
    return f"{fields}: got {values}; sbatch refuses the jobs ({words}): {remedy}"


def _further_flag(words: str, flags: Mapping[str, Any]) -> str | None:
    """Find among the flags that a user adds the one that a refusal is about; None if it is about none of them."""
    for flag, value in flags.items():
        name = str(flag)
        named = re.search(rf"(--|\b){re.escape(name.rstrip('s'))}", words)
        if named or (name in ("nodelist", "nodefile", "exclude") and "node name" in words):
            return f"{name}={value}"
    return None


def queue() -> dict[str, QueuedJob] | None:
    """Return this user's jobs by their numbers, those of arrays as `12_0`; None where Slurm gives no answer just now.

    Jobs that have ended stay for some minutes (`MinJobAge`).
    """
    try:
        run = _slurm(
            "squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%A|%F|%K|%T|%r|%o"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if run.returncode != 0:
        return None
    jobs: dict[str, QueuedJob] = {}
    for line in run.stdout.splitlines():
        parts = line.split("|", 5)
        if len(parts) == 6:
            job, array, index, state, reason, script = (part.strip() for part in parts)
            jobs[f"{array}_{index}" if index.isdecimal() else job] = QueuedJob(state, reason, script)
    return jobs


def longest_array() -> int:
    """Return how many jobs an array may have (`MaxArraySize`), by default 1001."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config").stdout, re.MULTILINE)
    except (OSError, subprocess.SubprocessError):
        found = None
    return max(1, int(found[1])) if found else 1001


def why_it_waits(reason: str, jobs: int, number: str, settings: Mapping[str, Any]) -> str | None:
    """Write in one line why jobs of an array wait, and what to type; None if they wait their turn.

    settings: those of the launcher, of which the line names only what is set.
    """
    reason = printable(reason)
    name = reason.partition(",")[0]
    if name in _USUAL or not name:
        return None
    wait = f"{counted(jobs, 'run')} of job {number} wait{'s' if jobs == 1 else ''}"
    if name.startswith("JobHeld"):
        return f"Slurm: {wait}: {reason}; scontrol release {number} lets {'it' if jobs == 1 else 'them'} start"
    if about := _WAITS_BECAUSE.get(name):
        given = [setting for setting in about if settings.get(setting) is not None] or about
        fields = ", ".join(f"hydra.launcher.{setting}" for setting in given)
        return (
            f"Slurm: {wait}, and may never start: {reason}; type scancel {number}, and the command again with another "
            f"value of one of {fields} ({_SHOW_PARTITIONS})"
        )
    return f"Slurm: {wait}: {reason}; scancel {number} takes {'it' if jobs == 1 else 'them'} out of the queue"


def why_this_job_ends() -> str | None:
    """Ask Slurm why it ends the job of this process: its time limit, or what state it is in; None outside of Slurm."""
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return None
    try:
        answer = _slurm("scontrol", "--oneliner", "show", "job", number, wait_s=5).stdout
    except (OSError, subprocess.SubprocessError):  # in a container, mostly
        return None
    facts = dict(word.split("=", 1) for word in answer.split() if "=" in word)
    state, limit = facts.get("JobState", ""), facts.get("TimeLimit", "")
    job = number
    if facts.get("ArrayJobId"):
        job += f" ({facts['ArrayJobId']}_{facts.get('ArrayTaskId')})"
    running = state == "RUNNING"
    if not state or (running and _seconds_until(facts.get("EndTime", "")) > _NEAR_S):
        return None  # a signal of another origin
    # What ends says COMPLETING, whatever ends it.
    if running or state == "TIMEOUT" or _as_seconds(facts.get("RunTime", "")) >= _as_seconds(limit):
        return (
            f"{LIMIT} of {printable(limit)} for job {job}; hydra.launcher.timeout_min=MINUTES, or --time of "
            "sbatch, allows more"
        )
    return f"{BEFORE_LIMIT} {job} before its time limit: it was cancelled, preempted or requeued"


def _as_seconds(span: str) -> float:
    """Read a span of time as Slurm writes it, [days-]hours:minutes:seconds; infinite if it is none."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", span)
    if found is None:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _seconds_until(moment: str) -> float:
    """Return how long it is until a local time as Slurm writes it; infinite if it is none."""
    try:
        return (datetime.fromisoformat(moment) - datetime.now()).total_seconds()
    except ValueError:
        return float("inf")


def _slurm(*words: str, wait_s: float = _ANSWER_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, errors="replace", timeout=wait_s, stdin=subprocess.DEVNULL
    )
