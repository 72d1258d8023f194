"""How fast one core of this host computes and copies, as JSON: `hardware.py` runs this file as a program of its own.

A BLAS library takes its number of threads when it is loaded, and not again: only in a new process is it known to be
one. `core_tflops` is the best of several products of two 384 × 384 matrices in float32. `gb_s` is the best of several
passes over a block of 32 MB, in which every second number is copied onto its neighbour: the whole block is read and
written, by one core. Large caches hold such a block, and several cores together may move more; both are left as they
are, since training on a processor reads and writes blocks of that kind. The block was written before, and the first
passes are not the best: pages that are handed out during the copy would make it many times too slow.
"""

import json
import time
from collections.abc import Callable

SIZE = 384
NUMBERS = 8_000_000


def main() -> None:
    import numpy as np

    a = np.full((SIZE, SIZE), 0.5, np.float32)
    b = np.empty_like(a)
    block = np.full(NUMBERS, 0.5, np.float32)
    tflops = 2 * SIZE**3 / _best_s(lambda: np.matmul(a, a, out=b)) / 1e12
    gb_s = 2 * block.nbytes / _best_s(lambda: np.copyto(block[::2], block[1::2])) / 1e9
    print(json.dumps({"core_tflops": tflops, "gb_s": gb_s}))


def _best_s(work: Callable[[], object], budget_s: float = 0.05, least: int = 5) -> float:
    """The fastest of several goes: the first ones warm caches up, and a busy machine spoils some."""
    best, done, until = float("inf"), 0, time.perf_counter() + budget_s
    while done < least or time.perf_counter() < until:
        start = time.perf_counter()
        work()
        best, done = min(best, time.perf_counter() - start), done + 1
    return best


if __name__ == "__main__":
    main()
