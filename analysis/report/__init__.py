"""Report on a table of runs. The package can be called: `from analysis import report; report(runs)`."""

import importlib

from lora_scaling.callable_module import make_callable

make_callable(__name__, lambda: importlib.import_module(".report", __name__).report)
