"""Describe a planned run for a fit: its quantities and labels, named as in `fit.json`."""

from lora_scaling.config import RunConfig
from lora_scaling.estimate.terms import Target
from lora_scaling.workload import Counting, Workload


def target_of(
    config: RunConfig, workload: Workload, precision: str | None = None, counting: Counting | None = None
) -> Target:
    """Build the target of a fit from a planned run.

    `tokens` are the positions processed, padding included, because padding costs as much as data, unless the runs of
    the fit were counted otherwise (`counting`); `flops_per_token` is per such position. `adapter_rank` is 1 without an
    adapter. Unknown labels are left out: the hardware if it is `auto`, and the precision if the configuration says
    `auto` and `precision` (its resolved value) is None.
    """
    tokens, flops = (counting or Counting()).tokens_and_flops(workload)
    adapted = config.tuning.adapted
    values = {
        "samples": float(config.samples),
        "epochs": float(config.epochs),
        "samples_seen": float(workload.samples_seen),
        "steps": float(workload.steps),
        "tokens": float(tokens),
        "flops": flops,
        "params": float(workload.shape.params),
        "params_samples_seen": float(workload.shape.params) * workload.samples_seen,
        "trainable_params": float(workload.trainable_params),
        "adapter_rank": float(config.lora.r) if adapted else 1.0,
        "batch_size": float(config.batch_size),
        "max_seq_len": float(config.max_seq_len),
        "gpu_count": float(max(1, config.hardware.count)),
    }
    if tokens > 0:
        values["flops_per_token"] = flops / tokens
    if adapted:
        values["rank"] = float(config.lora.r)
    labels = {
        "method": config.method.name,
        "hardware": config.hardware.name,
        "precision": config.precision if precision is None else precision,
    }
    return Target(values=values, labels={key: value for key, value in labels.items() if value != "auto"})
