"""`python -m lora_scaling.estimate`."""

import sys

from lora_scaling.commands.estimate import main

if __name__ == "__main__":
    sys.exit(main())
