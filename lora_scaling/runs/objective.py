"""What a run returns to a sweeper that searches, such as Optuna: `objective=energy_kwh`, or a list of names."""

import math

from lora_scaling.config import RunConfig
from lora_scaling.config.run import OBJECTIVES
from lora_scaling.errors import RunFailure
from lora_scaling.records import record_to_row
from lora_scaling.runs.run import RunOutcome


def objective_of(config: RunConfig, outcome: RunOutcome) -> float | tuple[float, ...] | None:
    """Return the number that `objective` names, or several in its order; None if none is asked for.

    Raises:
        LoraScalingError: the run did not finish, or one of them is unknown.
    """
    if not config.objectives:
        return None
    if outcome.failure is not None:
        raise outcome.failure
    if outcome.record is None or outcome.record["status"] != "ok":
        raise RunFailure(f"{outcome.path.parent.name}: {outcome.skipped or 'it did not finish'}; it has no objective")
    row = record_to_row(outcome.record)
    values = []
    for name in config.objectives:
        value = row[OBJECTIVES[name]]
        if value is None or not math.isfinite(value):
            raise RunFailure(f"objective: got {name}, which is unknown for {row['run_id']}; choose another")
        values.append(float(value))
    return values[0] if isinstance(config.objective, str) else tuple(values)
