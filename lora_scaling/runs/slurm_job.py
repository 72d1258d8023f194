"""`python -m lora_scaling.runs.slurm_job FOLDER`: make the run of one job of an array, in Slurm's job."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from lora_scaling.errors import LoraScalingError
from lora_scaling.runs.hydra_jobs import carry_out, job_config, prepare_process
from lora_scaling.runs.slurm import JOBS_NAME, Jobs
from lora_scaling.runs.slurm_queue import LIMIT, why_this_job_ends
from lora_scaling.signals import end_like_ctrl_c

_INTERRUPTED = 130


def main() -> int:
    """Make the run; return 0 if it is recorded, however it ended, as a sweep goes on after a run that failed."""
    end_like_ctrl_c()
    jobs: Jobs = pickle.loads((Path(sys.argv[1]) / JOBS_NAME).read_bytes())
    sys.argv = list(jobs.command)  # of which the record says that it made the run
    number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    try:
        prepare_process()
        result = carry_out(
            jobs.context, jobs.task, job_config(jobs.context, jobs.sweep, number, jobs.overrides[number])
        )
        _ = result.return_value  # raises what the task could not record
    except LoraScalingError as error:
        print(f"lora-scaling: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stop:
        why = why_this_job_ends() or str(stop) or "interrupted"
        print(f"lora-scaling: {why}", file=sys.stderr)
        if why.startswith(LIMIT) and int(os.environ.get("SLURM_RESTART_COUNT", "0")) < jobs.requeues:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        return _INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
