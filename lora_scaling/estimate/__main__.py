"""`python -m lora_scaling.estimate`."""

import sys

from ..arguments import reader_may_leave
from .cli import main as _main


@reader_may_leave()
def main() -> None:
    sys.exit(_main())


if __name__ == "__main__":
    main()
