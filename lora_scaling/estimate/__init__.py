"""What a run will cost, before it is started: time, energy, grams, memory, each with an interval and its basis.

    from lora_scaling import compose, estimate
    estimate(compose(["model=llama-3.1-8b", "method=qlora", "hardware=rtx-4090", "samples=10000"])).energy_kwh

The package can be called: `lora_scaling.estimate(…)` and `lora_scaling.estimate.estimate(…)` are the same.
The whole arithmetic is `physics.py` (time, power), `workload` (FLOPs, memory) and the constants of `priors.json`.
"""

from lora_scaling.callable_module import make_callable
from lora_scaling.estimate.estimator import Price, estimate
from lora_scaling.estimate.fit_file import load_fit
from lora_scaling.estimate.result import Emissions, Estimate, Interval, Memory, Part

__all__ = ["Emissions", "Estimate", "Interval", "Memory", "Part", "Price", "estimate", "load_fit"]

make_callable(__name__, lambda: estimate)
