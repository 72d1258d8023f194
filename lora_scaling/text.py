"""Write figures for people: three digits, in the unit that suits the size."""

from collections.abc import Sequence

# (from, size, name) of the units of a figure, smallest first.
Units = Sequence[tuple[float, float, str]]
TIMES: Units = ((0.0, 1.0, "s"), (100.0, 60.0, "min"), (5400.0, 3600.0, "h"), (172800.0, 86400.0, "days"))
ENERGIES: Units = ((0.0, 1e-3, "Wh"), (0.1, 1.0, "kWh"), (1e3, 1e3, "MWh"), (1e6, 1e6, "GWh"))
MASSES: Units = ((0.0, 1e-3, "mg"), (1.0, 1.0, "g"), (1e3, 1e3, "kg"), (1e6, 1e6, "t"))
POWERS: Units = ((0.0, 1.0, "W"), (1e3, 1e3, "kW"))


def number(x: float) -> str:
    """Write three digits; the estimator page and the picture of a comparison write the same."""
    return f"{x:.3g}" if x < 999.5 else f"{float(f'{x:.3g}'):,.0f}"


def in_unit(units: Units, x: float) -> str:
    """Write a figure in the largest of the units that it reaches."""
    _, size, name = [each for each in units if x >= each[0]][-1]
    return f"{number(x / size)} {name}"


def duration(seconds: float) -> str:
    return in_unit(TIMES, seconds)


def energy(kwh: float) -> str:
    return in_unit(ENERGIES, kwh)


def mass(grams: float) -> str:
    return in_unit(MASSES, grams)


def power(watts: float) -> str:
    return in_unit(POWERS, watts)


def memory(gb: float) -> str:
    return f"{number(gb)} GB"
