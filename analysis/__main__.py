"""`python -m analysis COMMAND RUNS …`."""

import os
import sys

# With hundreds of small matrices, BLAS threads cost three times what they save. A user's own setting stays.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
