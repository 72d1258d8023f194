"""`python -m lora_scaling`."""

import sys

from lora_scaling.commands.run import main

if __name__ == "__main__":
    sys.exit(main())
