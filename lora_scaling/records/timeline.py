"""Name the columns of the timeline of a record: one row per bin, joules per component."""

COMPONENTS = ("gpu", "cpu", "ram")
ENERGY_COLUMNS = tuple(f"{name}_j" for name in COMPONENTS)
TIMELINE_COLUMNS = ("start", "end", "phase", *ENERGY_COLUMNS)
