"""Compute grams of CO2e from the carbon intensity of the grid: providers, series, revisions.

The network is used only if a zone is set, or implied by a provider that has only one. The names below are the public
interface of this package; importing it needs only the standard library.
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
