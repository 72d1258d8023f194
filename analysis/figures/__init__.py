"""Figures of a table of runs. The package can be called: `from analysis import figures; figures(runs)`."""

import importlib

from lora_scaling.callable_module import make_callable

make_callable(__name__, lambda: importlib.import_module(".plot", __name__).figures)
