"""`python -m lora_scaling.study`."""

import sys

from lora_scaling.commands.study import main

if __name__ == "__main__":
    sys.exit(main())
