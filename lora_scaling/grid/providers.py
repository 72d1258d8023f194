"""List the providers with a network interface. To register one, add it here; `auto` tries them in this order."""

from lora_scaling.grid import electricitymaps, energidataservice, energycharts, uk
from lora_scaling.grid.source import Provider

SOURCES: dict[str, Provider] = {
    module.SOURCE.name: module.SOURCE for module in (energidataservice, uk, energycharts, electricitymaps)
}
