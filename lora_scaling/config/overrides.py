"""Read overrides, such as `samples=64` or `model=glob(ladder-*)`, in Hydra's grammar."""

import functools
from typing import Any

from lora_scaling.paths import NOT_PRESETS, choices, presets


@functools.lru_cache(maxsize=4096)  # the runs of a sweep have most of their overrides in common
def parse_override(line: str) -> Any:
    """Read one override; what is returned is not to be changed.

    Raises:
        OverrideParseException: it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    groups: Any = _Groups()
    return OverridesParser.create(groups).parse_overrides([line])[0]


class _Groups:
    """What Hydra's parser asks a configuration loader for: the options among which `glob()` chooses."""

    def get_group_options(self, group_name: str, results_filter: object = None) -> list[str]:
        return presets(group_name) if group_name in NOT_PRESETS else choices(group_name)
