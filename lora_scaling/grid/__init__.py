"""Grid carbon intensity: providers, series, grams. Nothing here touches the network but for a zone,
set or implied by a provider of one zone.

The names below are this package's interface; importing it needs the standard library only.
"""

from lora_scaling.grid.equivalents import Equivalent, equivalents
from lora_scaling.grid.forecast import ForecastAdvice, forecast_window
from lora_scaling.grid.revision import EmissionsRevision, compute_emissions
from lora_scaling.grid.series import Definition, GridError, Series, Slot
from lora_scaling.grid.settings import GridSettings
from lora_scaling.grid.static import StaticIntensity, static_intensity, static_of
from lora_scaling.grid.timeline import EnergyBin, read_timeline

__all__ = [
    "Definition",
    "EmissionsRevision",
    "EnergyBin",
    "Equivalent",
    "ForecastAdvice",
    "GridError",
    "GridSettings",
    "Series",
    "Slot",
    "StaticIntensity",
    "compute_emissions",
    "equivalents",
    "forecast_window",
    "read_timeline",
    "static_intensity",
    "static_of",
]
