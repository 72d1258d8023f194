"""What Slurm itself counted of the energy of a job, to stand beside this program's figures: in no sum of them.

`sstat` tells a step that runs what its nodes have consumed so far, and needs no accounting; `sacct` tells it of steps
that have ended. Both need one of Slurm's energy plugins (`AcctGatherEnergyType`), whose figures are those of whole
nodes: of what shares a node, neighbours included.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_scaling.errors import RecordError, UnwritableError
from lora_scaling.records import locked, read_record, write_record
from lora_scaling.records.row import was_continued
from lora_scaling.records.schema import RunRecord
from lora_scaling.text import ENERGY, counted, printable
from lora_scaling.units import JOULES_PER_KWH

_PATIENCE_S = 5.0  # for all that Slurm is asked after a run
_NOT_COUNTED = 2.0**62  # Slurm's words for "no value" are near 2^64
_UNASKED = "the run ended before Slurm was asked"
_NO_FIGURE = "neither sstat nor sacct has a figure"
# Steps that Slurm gives a name and, in a job's environment, a number.
_NAMED_STEPS = {"4294967290": "interactive", "4294967291": "batch", "4294967292": "extern"}
# What each plugin counts, of a node that is asked for a step.
_COUNTS = {
    "rapl": "processors and memory",
    "gpu": "GPUs",
    "pm_counters": "all parts",
    "ipmi": "all parts",
    "xcc": "all parts",
    "ibmaem": "all parts",
}


class SlurmCount:
    """Slurm's own count over a run of this process. `measured_joules` is ours in the same time."""

    def __init__(self, job: str, step: str) -> None:
        self.step = f"{job}.{step}"
        self.nodes = os.environ.get("SLURM_JOB_NODELIST")
        self.measured_joules: float | None = None
        self._before: subprocess.Popen[str] | None = None
        self._began = False

    def begin(self) -> None:
        """Ask for the count until now, without waiting for the answer."""
        self._began = True
        self._before = _start(self._words("sstat"))

    def end(self) -> dict[str, Any]:
        """Return the section `slurm_energy` of the run's record, within seconds."""
        if not self._began:
            return unasked()
        deadline = time.monotonic() + _PATIENCE_S
        before, self._before = _figure(_answer(self._before, deadline), self.step), None
        joules, source = _figure(_answer(_start(self._words("sstat")), deadline), self.step), "sstat"
        if not joules:
            joules, source = _figure(_answer(_start(self._words("sacct")), deadline), self.step), "sacct"
        covers = "step"
        if joules and source == "sstat" and before is not None and before < joules:
            joules, covers = joules - before, "run"
        plugin = _plugin(_answer(_start(["scontrol", "show", "config"]), deadline))
        return _section(joules, source, covers, self.step, self.nodes, plugin, self.measured_joules)

    def forget(self) -> None:
        """Leave it: nobody asks for the end."""
        _answer(self._before, time.monotonic())
        self._before = None

    def _words(self, program: str) -> list[str]:
        name = "JobIDRaw" if program == "sacct" else "JobID"
        return [program, "--noheader", "--parsable2", f"--jobs={self.step}", f"--format={name},ConsumedEnergyRaw"]


def slurm_count() -> SlurmCount | None:
    """Return the counter of this process's job step; None outside of Slurm."""
    job = os.environ.get("SLURM_JOB_ID", "").strip()
    if not job.isdecimal():
        return None
    step = os.environ.get("SLURM_STEP_ID", "").strip() or "batch"
    return SlurmCount(job, _NAMED_STEPS.get(step, step))


def unasked() -> dict[str, Any]:
    """Return the section of a record in a job of Slurm that nobody has asked Slurm for."""
    return {"joules": None, "reason": _UNASKED}


def add_what_sacct_says(paths: Iterable[Path]) -> None:
    """Enter what Slurm's accounts say of jobs that have ended into those records that have no figure of Slurm's.

    Does nothing where there are no accounts; a record that cannot be written stays as it is.
    """
    wanting: dict[str, Path] = {}
    for path in paths:
        with contextlib.suppress(RecordError):
            if job := _job_without_figure(read_record(path)):
                wanting[job] = path
    if not wanting:
        return
    words = ["sacct", "--noheader", "--parsable2", f"--jobs={','.join(wanting)}"]
    answer = _answer(_start([*words, "--format=JobIDRaw,ConsumedEnergyRaw"]), time.monotonic() + _PATIENCE_S)
    counted_by_job = {job: joules for job in wanting if (joules := _figure(answer, f"{job}.batch"))}
    if not counted_by_job:
        return
    plugin = _plugin(_answer(_start(["scontrol", "show", "config"]), time.monotonic() + _PATIENCE_S))
    for job, joules in counted_by_job.items():
        path = wanting[job]
        with contextlib.suppress(RecordError, UnwritableError), locked(path.parent) as mine:
            record = read_record(path)
            if mine and _job_without_figure(record) == job:
                energy = record.get("energy") or {}
                ours = (record.get("slurm_energy") or {}).get("measured_joules")
                if ours is None and not was_continued(energy):
                    ours = energy.get("joules")
                nodes = _job(record).get("job_nodelist")
                section = _section(joules, "sacct", "step", f"{job}.batch", nodes, plugin, ours)
                write_record(path, {**record, "slurm_energy": section})


def _job(record: RunRecord) -> Mapping[str, str | None]:
    return (record.get("provenance") or {}).get("slurm") or {}


def _job_without_figure(record: RunRecord) -> str | None:
    """Return the number of a record's job if nothing of Slurm's count is known; None otherwise."""
    known = (record.get("slurm_energy") or {}).get("joules")
    return _job(record).get("job_id") if known is None else None


def comparison(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Write what Slurm counted beside what was measured here, for the runs with both; None without any."""
    sections = [record.get("slurm_energy") or {} for record in records]
    both = [section for section in sections if section.get("joules") and section.get("measured_joules")]
    if not both:
        return None
    theirs, ours = (sum(section[name] for section in both) for name in ("joules", "measured_joules"))
    since = "" if all(section.get("covers") == "run" for section in both) else ", from the start of their jobs"
    return (
        f"Slurm's own count for the nodes of {counted(len(both), 'run')}{since}: "
        f"{ENERGY.show(theirs / JOULES_PER_KWH)}, where this program has {ENERGY.show(ours / JOULES_PER_KWH)}"
    )


def _section(
    joules: float | None, source: str, covers: str, step: str, nodes: str | None, plugin: str | None, ours: float | None
) -> dict[str, Any]:
    if not joules:
        reason = _NO_FIGURE if plugin is None else f"{_NO_FIGURE}; the cluster's AcctGatherEnergyType is {plugin}"
        return {"joules": None, "reason": reason, "measured_joules": ours}
    kind = (plugin or "").rpartition("/")[2]
    what = _COUNTS.get(kind, "what its plugin counts")
    during = "during the run" if covers == "run" else "from the step's start"
    return {
        "joules": joules,
        "source": source,
        "covers": covers,
        "of": f"{what} of {printable(nodes or '') or 'the nodes'} {during}, whoever used them",
        "step": step,
        "plugin": plugin,
        "measured_joules": ours,
    }


def _figure(answer: str, step: str) -> float | None:
    """Read the joules of a step, or else of its job, from lines of `step|joules`; None where there are none."""
    figures: dict[str, float] = {}
    for line in answer.splitlines():
        name, _, figure = line.strip().rpartition("|")
        if re.fullmatch(r"\d{1,19}(\.\d+)?", figure) and float(figure) < _NOT_COUNTED:
            figures[name] = float(figure)
    return next((figures[name] for name in (step, step.partition(".")[0], "") if name in figures), None)


def _plugin(config: str) -> str | None:
    found = re.search(r"^AcctGatherEnergyType\s*=\s*(\S+)", config, re.MULTILINE)
    return printable(found[1]) if found else None


def _start(words: list[str]) -> subprocess.Popen[str] | None:
    """Start a program of Slurm's; None if it is not there."""
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C is not its business
        )
    except OSError:
        return None


def _answer(program: subprocess.Popen[str] | None, deadline: float) -> str:
    """Return what a program has written by then; nothing if it fails or is not done, which then ends."""
    if program is None:
        return ""
    try:
        out, _ = program.communicate(timeout=max(0.01, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        program.kill()
        program.communicate()
        return ""
    return out if program.returncode == 0 else ""
