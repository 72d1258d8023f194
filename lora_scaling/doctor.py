"""`python -m lora_scaling.doctor`."""

import sys

from lora_scaling.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
