"""Have `import analysis` mean the package that comes with this one.

`python -m` looks into the current folder first, where a person may have an `analysis.py` or a folder of that name.
"""

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "analysis"


def use_own_analysis() -> None:
    """Load the package under its name, in place of what another file of that name may have left there."""
    loaded = getattr(sys.modules.get("analysis"), "__file__", None)
    if loaded is not None and Path(loaded).resolve() == _FOLDER / "__init__.py":
        return
    spec = importlib.util.spec_from_file_location(
        "analysis", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["analysis"] = module
    spec.loader.exec_module(module)
