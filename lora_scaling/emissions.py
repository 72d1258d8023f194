"""`python -m lora_scaling.emissions`."""

import sys

from lora_scaling.commands.emissions import main

if __name__ == "__main__":
    sys.exit(main())
