"""`python -m lora_scaling.estimate`."""

import sys

from lora_scaling.commands.arguments import reader_may_leave
from lora_scaling.commands.estimate import main as _main


@reader_may_leave()
def main() -> None:
    sys.exit(_main())


if __name__ == "__main__":
    main()
