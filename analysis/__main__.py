"""`python -m analysis COMMAND RUNS …`."""

import sys

from .cli import main as _main


def main() -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(_main())


if __name__ == "__main__":
    main()
