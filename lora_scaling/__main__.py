"""`python -m lora_scaling`, and `lora-scaling`."""

import sys

from lora_scaling.commands.program import main

if __name__ == "__main__":
    sys.exit(main())
