"""A fit.json of known coefficients, and what it is asked for."""

import json
import math

from lora_scaling.estimate.terms import Target


def written(tmp_path, **changes):
    model = {
        "name": "gamma free",
        "weight": 1.0,
        "params": {"alpha": math.log(2e-9), "gamma": 1.0},
        "param_names": ["alpha", "gamma"],
        "covariance": [[0.0, 0.0], [0.0, 0.0]],
        "df": 20,
        "sigma": 0.05,
    }
    fit = {
        "schema_version": 1,
        "kind": "energy_fit",
        "models": [model],
        "fixed": {},
        "ranges": {"flops_per_token": [1e6, 1e8]},
        "methods": ["lora"],
        "hardware": ["NVIDIA RTX A4000"],
        "n": 22,
    } | changes
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(fit))
    return path


def target(flops=1e7, **labels):
    return Target(values={"tokens": 1e6, "flops_per_token": flops}, labels={"method": "lora", **labels})
