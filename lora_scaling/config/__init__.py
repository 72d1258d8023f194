"""Read the configuration of a run strictly from YAML and overrides."""

from lora_scaling.config.compose import (
    check_overrides,
    compose,
    friendly_hydra_errors,
    from_omegaconf,
    register_plugins,
)
from lora_scaling.config.run import DataConfig, HardwareConfig, LoraConfig, MethodConfig, ModelConfig, RunConfig, run_id
from lora_scaling.config.unused import refuse_unused

__all__ = [
    "DataConfig",
    "HardwareConfig",
    "LoraConfig",
    "MethodConfig",
    "ModelConfig",
    "RunConfig",
    "check_overrides",
    "compose",
    "friendly_hydra_errors",
    "from_omegaconf",
    "refuse_unused",
    "register_plugins",
    "run_id",
]
