"""The providers with a network interface: here and nowhere else one is made known. `auto` asks in this order."""

from lora_scaling.grid import electricitymaps, energidataservice, energycharts, uk
from lora_scaling.grid.source import Source

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE for module in (energidataservice, uk, energycharts, electricitymaps)
}
